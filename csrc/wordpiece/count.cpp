#include "count.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "scan.hpp"
#include "word_table.hpp"

namespace edad_fast::wordpiece {
namespace {

constexpr std::size_t kTaskBytes = std::size_t{1} << 20;
constexpr std::size_t kAhead = 16;  // words whose places are fetched before they are counted

static_assert(std::endian::native == std::endian::little, "keys are sorted by their bytes");

std::uint64_t swap_bytes(std::uint64_t value) {
  value = (value & 0x00FF00FF00FF00FFU) << 8 | (value >> 8 & 0x00FF00FF00FF00FFU);
  value = (value & 0x0000FFFF0000FFFFU) << 16 | (value >> 16 & 0x0000FFFF0000FFFFU);
  return value << 32 | value >> 32;
}

// Bytes of a short word in the order of memcmp.
struct SortKey {
  std::uint64_t high, low;
  std::int64_t count;

  auto order() const { return std::pair(high, low); }

  std::string_view text(char (&storage)[WordCache::kShortBytes]) const {
    const std::uint64_t parts[2] = {swap_bytes(high), swap_bytes(low)};
    std::memcpy(storage, parts, sizeof(storage));
    const unsigned zero_bits =
        static_cast<unsigned>(low != 0 ? std::countr_zero(low) : 64 + std::countr_zero(high));
    return {storage, WordCache::kShortBytes - zero_bits / 8};
  }
};

void append(CountList& list, std::string_view word, std::int64_t count) {
  list.text += word;
  list.ends.push_back(list.text.size());
  list.counts.push_back(count);
}

}  // namespace

struct WordCounter::Worker {
  ScanState scan;
  std::string utf8;
  ShortWordTable shorts;
  LongWordTable longs;
  std::int64_t too_long = 0;
  std::size_t max_chars = 0;

  void ascii(const unsigned char* bytes, const std::uint16_t* begins, const std::uint16_t* ends,
             std::size_t count, std::size_t /*offset*/) {
    ShortKey keys[kAhead];
    std::uint64_t hashes[kAhead];
    for (std::size_t first = 0; first < count; first += kAhead) {
      const std::size_t n = std::min(kAhead, count - first);
      std::size_t kept = 0;
      for (std::size_t i = first; i < first + n; ++i) {
        const auto length = static_cast<std::size_t>(ends[i] - begins[i]);
        if (length > WordCache::kShortBytes) {
          add_long({reinterpret_cast<const char*>(bytes + begins[i]), length}, length);
          continue;
        }
        keys[kept] = ShortKey::load(bytes + begins[i], length);
        hashes[kept] = WordHash::of(keys[kept]);
        shorts.prefetch(hashes[kept]);
        ++kept;
      }
      for (std::size_t i = 0; i < kept; ++i) {
        shorts.add(keys[i], hashes[i], 1);
      }
    }
  }

  void word(const Word& word, std::size_t /*chunk_offset*/) {
    // A short key is padded with NUL.
    if (word.text.size() > WordCache::kShortBytes || word.text.find('\0') != std::string_view::npos) {
      add_long(word.text, word.characters);
      return;
    }
    unsigned char padded[WordCache::kShortBytes] = {};
    std::memcpy(padded, word.text.data(), word.text.size());
    const ShortKey key = ShortKey::load(padded, word.text.size());
    shorts.add(key, WordHash::of(key), 1);
  }

  void chunk(std::size_t /*bytes*/, std::size_t /*characters*/) {}

  void add_long(std::string_view word, std::size_t characters) {
    if (characters > max_chars) {
      ++too_long;
    } else {
      longs.add(word, 1);
    }
  }
};

WordCounter::WordCounter(NormalizerOptions options, std::size_t max_chars)
    : normalizer_(options),
      lowercase_(options.lowercase),
      replace_surrogates_(options.compat == Compat::slow),
      max_chars_(max_chars) {
  if (max_chars < WordCache::kShortBytes) {
    throw std::invalid_argument("max_chars is " + std::to_string(max_chars) + "; give 16 or more");
  }
}

WordCounter::~WordCounter() = default;
WordCounter::WordCounter(WordCounter&&) noexcept = default;
WordCounter& WordCounter::operator=(WordCounter&&) noexcept = default;

void WordCounter::add(std::span<const TextView> texts, std::size_t n_threads) {
  const std::vector<TextRange> tasks = split_texts(texts, kTaskBytes);
  const std::size_t threads = std::max<std::size_t>(1, std::min(n_threads, tasks.size()));
  while (workers_.size() < threads) {
    workers_.push_back(std::make_unique<Worker>());
    workers_.back()->max_chars = max_chars_;
  }
  run_tasks(tasks.size(), threads, [&](std::size_t task, std::size_t thread) {
    Worker& worker = *workers_[thread];
    for (std::size_t i = tasks[task].begin; i < tasks[task].end; ++i) {
      try {
        scan<false>(to_utf8(texts[i], replace_surrogates_, worker.utf8), normalizer_, lowercase_, max_chars_,
                    worker.scan, worker);
      } catch (const std::invalid_argument& error) {
        throw std::invalid_argument("texts[" + std::to_string(i) + "] holds " + error.what());
      }
    }
  });
}

void WordCounter::add_utf8(std::string_view text, std::size_t n_threads) {
  std::vector<TextView> parts;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = std::min(text.size(), begin + kTaskBytes);
    while (end < text.size() && !is_ascii_space(text[end])) {
      ++end;
    }
    parts.push_back({text.data() + begin, end - begin, TextView::Kind::utf8});
    begin = end;
  }
  add(parts, n_threads);
}

CountList WordCounter::finish() {
  std::vector<std::unique_ptr<Worker>> workers;
  workers.swap(workers_);
  CountList list;
  if (workers.empty()) {
    return list;
  }
  Worker& all = *workers.front();
  for (std::size_t i = 1; i < workers.size(); ++i) {
    for (const ShortWordTable::Slot& slot : workers[i]->shorts.slots()) {
      if (slot.count != 0) {
        all.shorts.add(slot.key, WordHash::of(slot.key), slot.count);
      }
    }
    for (const LongWordTable::Slot& slot : workers[i]->longs.slots()) {
      if (slot.length != 0) {
        all.longs.add(workers[i]->longs.text(slot), slot.count);
      }
    }
    all.too_long += workers[i]->too_long;
    workers[i].reset();
  }
  list.long_words = all.too_long;

  std::vector<SortKey> shorts;
  shorts.reserve(all.shorts.size());
  for (const ShortWordTable::Slot& slot : all.shorts.slots()) {
    if (slot.count != 0) {
      shorts.push_back({swap_bytes(slot.key.low), swap_bytes(slot.key.high), slot.count});
    }
  }
  std::ranges::sort(shorts, {}, &SortKey::order);
  std::vector<std::pair<std::string_view, std::int64_t>> longs;
  longs.reserve(all.longs.size());
  for (const LongWordTable::Slot& slot : all.longs.slots()) {
    if (slot.length != 0) {
      longs.emplace_back(all.longs.text(slot), slot.count);
    }
  }
  std::ranges::sort(longs);

  list.ends.reserve(shorts.size() + longs.size());
  list.counts.reserve(shorts.size() + longs.size());
  auto next_long = longs.begin();
  char storage[WordCache::kShortBytes];
  for (const SortKey& key : shorts) {
    const std::string_view word = key.text(storage);
    for (; next_long != longs.end() && next_long->first < word; ++next_long) {
      append(list, next_long->first, next_long->second);
    }
    append(list, word, key.count);
  }
  for (; next_long != longs.end(); ++next_long) {
    append(list, next_long->first, next_long->second);
  }
  return list;
}

}  // namespace edad_fast::wordpiece
