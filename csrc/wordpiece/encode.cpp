#include "encode.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "encode_sink.hpp"

namespace edad_fast::wordpiece {
namespace {

constexpr std::size_t kTaskBytes = std::size_t{1} << 18;

std::vector<std::uint32_t> piece_characters(const std::vector<std::string>& pieces, std::string_view prefix) {
  std::vector<std::uint32_t> characters;
  characters.reserve(pieces.size());
  for (std::string_view piece : pieces) {
    if (piece.size() > prefix.size() && piece.starts_with(prefix)) {
      piece.remove_prefix(prefix.size());
    }
    characters.push_back(static_cast<std::uint32_t>(count_characters(piece)));
  }
  return characters;
}

// Lays the parts one behind the other, each copied by one thread.
void gather(std::vector<Encoded>& parts, std::size_t rows, bool with_spans, std::size_t n_threads,
            Encoded& result) {
  std::vector<std::size_t> starts{0};
  for (const Encoded& part : parts) {
    starts.push_back(starts.back() + part.ids.size());
  }
  const std::size_t tokens = starts.back();
  std::int32_t* const ids = result.ids.reserve_more(tokens);
  std::int32_t* const spans = result.spans.reserve_more(with_spans ? 2 * tokens : 0);
  std::int32_t* const words = result.words.reserve_more(with_spans ? tokens : 0);
  result.row_offsets.reserve_more(rows);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    for (std::size_t row = 0; row < parts[i].row_offsets.size(); ++row) {
      result.row_offsets.push_back(static_cast<std::int64_t>(starts[i]) + parts[i].row_offsets[row]);
    }
  }
  const auto copy = [](const Buffer<std::int32_t>& from, std::int32_t* to) {
    if (from.size() != 0) {
      std::memcpy(to, from.data(), from.size() * sizeof(std::int32_t));
    }
  };
  run_tasks(parts.size(), n_threads, [&](std::size_t i, std::size_t /*thread*/) {
    copy(parts[i].ids, ids + starts[i]);
    if (with_spans) {
      copy(parts[i].spans, spans + 2 * starts[i]);
      copy(parts[i].words, words + starts[i]);
    }
    parts[i] = Encoded();
  });
  result.ids.set_end(ids + tokens);
  if (with_spans) {
    result.spans.set_end(spans + 2 * tokens);
    result.words.set_end(words + tokens);
  }
}

}  // namespace

Encoder::Encoder(const std::vector<std::string>& pieces, EncoderOptions options)
    : options_(std::move(options)),
      normalizer_(options_.normalizer),
      matcher_(pieces, options_.prefix, options_.max_chars),
      piece_chars_(piece_characters(pieces, options_.prefix)) {
  const auto check = [&](std::int32_t id, const std::string& name) {
    if (id < 0 || static_cast<std::size_t>(id) >= pieces.size()) {
      throw std::invalid_argument(name + " " + std::to_string(id) + " is outside the " +
                                  std::to_string(pieces.size()) + " pieces");
    }
  };
  check(options_.unk_id, "unk_id");
  for (const auto& [text, id] : options_.literals) {
    if (text.empty()) {
      throw std::invalid_argument("a special token is empty");
    }
    check(id, "id of special token '" + text + "':");
    if (literal_first_bytes_.find(text[0]) == std::string::npos) {
      literal_first_bytes_ += text[0];
    }
  }
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    const std::string& piece = pieces[id];
    const bool is_word = piece.size() <= WordCache::kShortBytes &&
                         count_characters(piece) <= options_.max_chars &&
                         piece.find('\0') == std::string::npos;
    if (is_word) {
      unsigned char padded[WordCache::kShortBytes] = {};
      std::memcpy(padded, piece.data(), piece.size());
      prefilled_.prefill(ShortKey::load(padded, piece.size()), static_cast<std::int32_t>(id));
    }
  }
}

Encoder::~Encoder() = default;

std::size_t Encoder::match(std::string_view word, std::int32_t* out) const {
  const bool too_long = word.size() > options_.max_chars && count_characters(word) > options_.max_chars;
  const std::size_t count = too_long ? Matcher::kNone : matcher_.match(word, false, out);
  if (count == Matcher::kNone) {
    *out = options_.unk_id;
    return 1;
  }
  return count;
}

std::size_t Encoder::find_literal(std::string_view utf8, std::size_t from, std::size_t& length,
                                  std::int32_t& id) const {
  const std::string_view first_bytes = literal_first_bytes_;
  const auto next = [&](std::size_t place) {
    return first_bytes.size() == 1 ? utf8.find(first_bytes[0], place)
                                   : utf8.find_first_of(first_bytes, place);
  };
  for (std::size_t place = next(from); place != std::string_view::npos; place = next(place + 1)) {
    for (const auto& [text, text_id] : options_.literals) {
      if (text.size() > length && utf8.substr(place).starts_with(text)) {
        length = text.size();
        id = text_id;
      }
    }
    if (length != 0) {
      return place;
    }
  }
  return std::string_view::npos;
}

template <bool with_spans>
void Encoder::encode_text(std::string_view utf8, Worker& worker, Encoded& out) const {
  if (with_spans && utf8.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw std::invalid_argument(std::to_string(utf8.size()) +
                                " bytes, too many for offsets; cut it below 2 GiB");
  }
  Sink<with_spans> sink(*this, worker, out);
  std::size_t from = 0;
  while (from < utf8.size()) {
    std::size_t length = 0;
    std::int32_t id = 0;
    const std::size_t stop = std::min(find_literal(utf8, from, length, id), utf8.size());
    sink.set_origin(from);
    scan<with_spans>(utf8.substr(from, stop - from), normalizer_, options_.normalizer.lowercase,
                     options_.max_chars, worker.scan, sink);
    if (length != 0) {
      sink.set_origin(stop);
      sink.literal(id, utf8.substr(stop, length));
    }
    from = stop + length;
  }
}

template <bool with_spans>
void Encoder::encode_range(std::span<const TextView> texts, TextRange range, Worker& worker,
                           Encoded& out) const {
  const bool replace = options_.normalizer.compat == Compat::slow;
  for (std::size_t i = range.begin; i < range.end; ++i) {
    try {
      encode_text<with_spans>(to_utf8(texts[i], replace, worker.utf8), worker, out);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("texts[" + std::to_string(i) + "] holds " + error.what());
    }
    out.row_offsets.push_back(static_cast<std::int64_t>(out.ids.size()));
  }
}

std::unique_ptr<Encoder::Worker> Encoder::take_worker() const {
  // Only tried: in a process forked while another thread held the lock, it stays locked.
  if (const std::unique_lock lock(mutex_, std::try_to_lock); lock.owns_lock() && !idle_.empty()) {
    std::unique_ptr<Worker> worker = std::move(idle_.back());
    idle_.pop_back();
    return worker;
  }
  return std::make_unique<Worker>(prefilled_);
}

void Encoder::give_back(std::unique_ptr<Worker> worker) const {
  constexpr std::size_t kLargestKept = std::size_t{1} << 24;
  if (worker->utf8.size() > kLargestKept) {
    worker->utf8 = {};
  }
  if (const std::unique_lock lock(mutex_, std::try_to_lock); lock.owns_lock()) {
    idle_.push_back(std::move(worker));
  }
}

Encoded Encoder::encode(std::span<const TextView> texts, std::size_t n_threads, bool with_spans) const {
  const auto encode_into = [&](TextRange range, Worker& worker, Encoded& out) {
    if (with_spans) {
      encode_range<true>(texts, range, worker, out);
    } else {
      encode_range<false>(texts, range, worker, out);
    }
  };
  Encoded result;
  result.row_offsets.push_back(0);
  const std::vector<TextRange> tasks =
      n_threads > 1 ? split_texts(texts, kTaskBytes) : std::vector<TextRange>{};
  if (tasks.size() < 2) {
    std::unique_ptr<Worker> worker = take_worker();
    encode_into({0, texts.size()}, *worker, result);
    give_back(std::move(worker));
    return result;
  }
  std::vector<std::unique_ptr<Worker>> workers(std::min(n_threads, tasks.size()));
  std::vector<Encoded> parts(tasks.size());
  run_tasks(tasks.size(), workers.size(), [&](std::size_t task, std::size_t thread) {
    if (!workers[thread]) {
      workers[thread] = take_worker();
    }
    encode_into(tasks[task], *workers[thread], parts[task]);
  });
  for (std::unique_ptr<Worker>& worker : workers) {
    if (worker) {
      give_back(std::move(worker));
    }
  }
  gather(parts, texts.size(), with_spans, workers.size(), result);
  return result;
}

}  // namespace edad_fast::wordpiece
