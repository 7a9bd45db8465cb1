// Fuzz target of the normaliser, the encoder and the counter: any bytes, under any options, with the
// properties that hold for all of them. With clang it is linked to libFuzzer, otherwise to fuzz_driver.cpp.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "hostile.hpp"
#include "wordpiece/count.hpp"
#include "wordpiece/encode.hpp"

using namespace edad_fast::wordpiece;
using Ids = std::vector<std::int32_t>;

namespace {

constexpr std::int32_t kUnknown = 1;

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "BROKEN: %s\n", what);
    std::abort();
  }
}

const std::vector<std::string>& pieces() {
  static const std::vector<std::string> list = edad_fast::tests::test_pieces();
  return list;
}

// Greedy longest match as published, slow and plain.
Ids greedy(std::string_view word) {
  static const std::unordered_map<std::string, std::int32_t> ids = [] {
    std::unordered_map<std::string, std::int32_t> found;
    for (std::size_t id = 0; id < pieces().size(); ++id) {
      found.emplace(pieces()[id], static_cast<std::int32_t>(id));
    }
    return found;
  }();
  Ids result;
  for (std::size_t begin = 0; begin < word.size();) {
    std::size_t end = word.size();
    for (; end > begin; --end) {
      const auto piece = ids.find((begin == 0 ? "" : "##") + std::string(word.substr(begin, end - begin)));
      if (piece != ids.end()) {
        result.push_back(piece->second);
        break;
      }
    }
    if (end == begin) {
      return {kUnknown};
    }
    begin = end;
  }
  return result;
}

// One set of options: encoders with and without special tokens, and a counter.
struct Subject {
  explicit Subject(unsigned choice) {
    normalizer.compat = choice & 1 ? Compat::slow : Compat::hf;
    normalizer.lowercase = !(choice & 2);
    normalizer.strip_accents = (choice & 4) ? !normalizer.lowercase : normalizer.lowercase;
    if (normalizer.compat == Compat::hf) {
      normalizer.handle_chinese_chars = !(choice & 8);
      normalizer.clean_text = !(choice & 16);
    } else {
      normalizer.strip_accents = normalizer.lowercase;
    }
    EncoderOptions options;
    options.normalizer = normalizer;
    options.unk_id = kUnknown;
    options.max_chars = max_chars;
    plain = std::make_unique<Encoder>(pieces(), options);
    for (std::int32_t id = 0; id < 5; ++id) {
      options.literals.emplace_back(pieces()[static_cast<std::size_t>(id)], id);
    }
    literal = std::make_unique<Encoder>(pieces(), options);
    counter = std::make_unique<WordCounter>(normalizer, max_chars);
  }

  static constexpr std::size_t max_chars = 20;  // so that inputs need not be long to have long words
  NormalizerOptions normalizer;
  std::unique_ptr<Encoder> plain, literal;
  std::unique_ptr<WordCounter> counter;
};

Subject& subject(unsigned choice) {
  static std::map<unsigned, std::unique_ptr<Subject>> made;
  std::unique_ptr<Subject>& found = made[choice % 32];
  if (!found) {
    found = std::make_unique<Subject>(choice % 32);
  }
  return *found;
}

TextView view_of(std::string_view text) { return {text.data(), text.size(), TextView::Kind::utf8}; }

Ids ids_of(const Encoder& encoder, std::string_view text) {
  const TextView view = view_of(text);
  const Encoded encoded = encoder.encode({&view, 1}, 1, false);
  return {encoded.ids.data(), encoded.ids.data() + encoded.ids.size()};
}

// The code points of `text`, if it is UTF-8 without halves of surrogate pairs.
bool decode(std::string_view text, std::u32string& out) {
  for (std::size_t at = 0; at < text.size();) {
    const auto first = static_cast<unsigned char>(text[at]);
    const std::size_t length = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (length == 0 || first > 0xF4 || at + length > text.size()) {
      return false;
    }
    char32_t code = length == 1 ? first : first & (0x7Fu >> length);
    for (std::size_t i = 1; i < length; ++i) {
      const auto byte = static_cast<unsigned char>(text[at + i]);
      if ((byte & 0xC0) != 0x80) {
        return false;
      }
      code = code << 6 | (byte & 0x3F);
    }
    const char32_t least = length == 2 ? 0x80 : length == 3 ? 0x800 : length == 4 ? 0x10000 : 0;
    if (code < least || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
      return false;
    }
    out += code;
    at += length;
  }
  return true;
}

void check_spans(const Encoded& encoded, std::size_t characters) {
  const std::size_t tokens = encoded.ids.size();
  require(encoded.spans.size() == 2 * tokens && encoded.words.size() == tokens,
          "a span and a word for each id");
  for (std::size_t i = 0; i < tokens; ++i) {
    const std::int32_t id = encoded.ids.data()[i];
    require(id >= 0 && static_cast<std::size_t>(id) < pieces().size(), "ids are places in the vocabulary");
    const std::int32_t begin = encoded.spans.data()[2 * i];
    const std::int32_t end = encoded.spans.data()[2 * i + 1];
    require(begin >= 0 && begin <= end && static_cast<std::size_t>(end) <= characters,
            "spans lie in the text");
    const std::int32_t before = i == 0 ? 0 : encoded.words.data()[i - 1];
    require(encoded.words.data()[i] >= before, "words are numbered in order");
  }
}

// Ids, from the words that the counter has found; order is lost.
std::map<std::int32_t, std::int64_t> histogram(const CountList& counts) {
  std::map<std::int32_t, std::int64_t> found;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    for (const std::int32_t id : greedy(counts.word(i))) {
      found[id] += counts.counts[i];
    }
  }
  if (counts.long_words > 0) {
    found[kUnknown] += counts.long_words;
  }
  return found;
}

void check(const Subject& subject, std::string_view text, std::size_t cut) {
  const Ids plain = ids_of(*subject.plain, text);
  const TextView view = view_of(text);
  const Encoded spans = subject.literal->encode({&view, 1}, 1, true);
  const Ids ids(spans.ids.data(), spans.ids.data() + spans.ids.size());
  require(ids == ids_of(*subject.literal, text), "ids with spans are those without");

  std::u32string codes;
  const bool valid = decode(text, codes);
  check_spans(spans, valid ? codes.size() : text.size());
  if (valid) {
    const TextView wide{codes.data(), codes.size(), TextView::Kind::ucs4};
    const Encoded again = subject.literal->encode({&wide, 1}, 1, false);
    require(ids == Ids(again.ids.data(), again.ids.data() + again.ids.size()),
            "UTF-32 gives the ids of UTF-8");
  }

  const std::size_t space = text.find(' ', text.empty() ? 0 : cut % text.size());
  if (space != std::string_view::npos) {
    Ids parts = ids_of(*subject.literal, text.substr(0, space));
    const Ids second = ids_of(*subject.literal, text.substr(space + 1));
    parts.insert(parts.end(), second.begin(), second.end());
    require(parts == ids, "a text may be cut at a space");
  }

  if (cut >= 8) {
    return;  // a new table of words takes longer than all the rest
  }
  subject.counter->add({&view, 1}, 1);
  const CountList counts = subject.counter->finish();
  std::map<std::int32_t, std::int64_t> found;
  for (const std::int32_t id : plain) {
    ++found[id];
  }
  require(found == histogram(counts), "greedy matching of the counted words gives the ids");
  subject.counter->add_utf8(text, 1);
  require(subject.counter->finish() == counts, "add_utf8() counts as add()");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) {
    return 0;
  }
  const std::string text(reinterpret_cast<const char*>(data) + 2, size - 2);
  check(subject(data[0]), text, data[1]);
  return 0;
}
