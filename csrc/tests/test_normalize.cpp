#include <cstdio>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "wordpiece/normalize.hpp"

using edad_fast::wordpiece::CharacterData;
using edad_fast::wordpiece::CharSpan;
using edad_fast::wordpiece::Compat;
using edad_fast::wordpiece::Normalizer;
using edad_fast::wordpiece::NormalizerOptions;
using edad_fast::wordpiece::previous_utf8;
using edad_fast::wordpiece::read_utf8;
using edad_fast::wordpiece::table_version;
using edad_fast::wordpiece::to_utf8;
using edad_fast::wordpiece::Utf8Bytes;
using edad_fast::wordpiece::Utf8Unit;
using edad_fast::wordpiece::Word;
using Words = std::vector<std::string>;
using Spans = std::vector<std::pair<std::uint32_t, std::uint32_t>>;

using namespace std::string_view_literals;

namespace {

int failures = 0;

void check(bool passed, const char* what) {
  if (!passed) {
    ++failures;
    std::fprintf(stderr, "FAILED: %s\n", what);
  }
}

constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();
const NormalizerOptions kUncased;
const NormalizerOptions kCased{.strip_accents = false, .lowercase = false};
const NormalizerOptions kSlowUncased{.compat = Compat::slow};
const NormalizerOptions kSlowCased{.compat = Compat::slow, .strip_accents = false, .lowercase = false};
const NormalizerOptions kNothing{Compat::hf, false, false, false, false};

Words words_of(const NormalizerOptions& options, std::string_view text, std::size_t max_chars = 100) {
  Normalizer::Scratch scratch;
  Words words;
  Normalizer(options).for_each_word<false>(text, max_chars, scratch, [&](const Word& word) {
    check(word.spans.empty(), "no spans unless asked for");
    words.emplace_back(word.text);
  });
  return words;
}

Spans spans_of(const NormalizerOptions& options, std::string_view text) {
  Normalizer::Scratch scratch;
  Spans spans;
  Normalizer(options).for_each_word<true>(text, 100, scratch, [&](const Word& word) {
    check(word.spans.size() == word.characters, "one span per character");
    for (const CharSpan span : word.spans) {
      spans.emplace_back(span.begin, span.end);
    }
  });
  return spans;
}

std::size_t characters_in(std::string_view text) {
  Normalizer::Scratch scratch;
  return Normalizer(kUncased).for_each_word<false>(text, 100, scratch, [](const Word&) {});
}

std::string repeat(std::string_view text, std::size_t times) {
  std::string result;
  for (std::size_t i = 0; i < times; ++i) {
    result += text;
  }
  return result;
}

void test_words() {
  check(words_of(kUncased, "").empty(), "no text, no words");
  check(words_of(kUncased, " \t\r\n\u3000\u2028 ").empty(), "white space has no words");
  check(words_of(kUncased, "The p53 (NF-kB)!") == Words({"the", "p53", "(", "nf", "-", "kb", ")", "!"}),
        "ASCII words and punctuation");
  check(words_of(kCased, "The \u00c9tude") == Words({"The", "\u00c9tude"}), "cased");
  check(words_of(kUncased, "na\u00efve \u1ec6 e\u0301 \u00c5") == Words({"naive", "e", "e", "a"}),
        "accents go, decomposed or not");
  check(words_of(kUncased, "x\u4e2d\u6587y") == Words({"x", "\u4e2d", "\u6587", "y"}), "Chinese characters");
  check(words_of(kNothing, "x\u4e2d\u6587Y") == Words({"x\u4e2d\u6587Y"}), "Chinese characters left alone");
  check(words_of(kUncased, "\uf900\U0002f800") == Words({"\u8c48", "\u4e3d"}),
        "compatible Chinese characters decompose");
  check(
      words_of(kUncased, "\ud55c\uae00\uac00") == Words({"\u1112\u1161\u11ab\u1100\u1173\u11af\u1100\u1161"}),
      "Hangul falls into letters");
  check(words_of(kCased, "\ud55c\uae00") == Words({"\ud55c\uae00"}), "Hangul stays whole");
  check(words_of(kUncased, "a\0b\u00adc\u200bd\ufffde\x01 f"sv) == Words({"abcde", "f"}),
        "control characters, U+0000 and U+FFFD are removed");
  check(words_of(kNothing, "a\u200bb") == Words({"a\u200bb"}), "and stay without cleaning");
  check(words_of(kUncased, "a\u2013b\u00b7c\u037ed\u1fefe") ==
            Words({"a", "\u2013", "b", "\u00b7", "c", ";", "d", "`", "e"}),
        "punctuation beyond ASCII, some by its decomposition");
  check(words_of(kUncased, "\u0130\u1e9e\u00df\U00010400\uff21") == Words({"i\u00df\u00df\U00010428\uff41"}),
        "lower case of two, three and four bytes");
  check(words_of({.strip_accents = false}, "\u0130x") == Words({"i\u0307x"}), "two characters from one");
}

void test_modes() {
  check(words_of(kSlowUncased, "a\U0002b820b") == Words({"a", "\U0002b820", "b"}), "Google's CJK ranges");
  check(words_of(kUncased, "a\U0002b820b") == Words({"a\U0002b820b"}), "those of tokenizers");
  check(words_of(kSlowUncased, "a\ue000b\u0378c") == Words({"abc"}),
        "slow: nothing unassigned, nothing private");
  check(words_of(kSlowCased, "\u1e9e\u0130") == Words({"\u1e9e\u0130"}), "slow and cased");
  check(words_of(kSlowUncased, "\u0130") == Words({"i"}), "slow: the dot is an accent");
  check(table_version(Compat::slow) == std::string_view("14.0.0"), "the pinned Unicode version");
}

void test_sigma() {
  const auto lower = [](std::string_view text) { return words_of(kSlowUncased, text); };
  check(words_of(kUncased, "\u039f\u03a3") == Words({"\u03bf\u03c3"}), "tokenizers knows no final sigma");
  check(lower("\u039f\u03a3") == Words({"\u03bf\u03c2"}), "at the end");
  check(lower("\u03a3") == Words({"\u03c3"}), "nothing before");
  check(lower("1\u03a3") == Words({"1\u03c3"}), "nothing cased before");
  check(lower("\u03a3\u039f") == Words({"\u03c3\u03bf"}), "at the beginning");
  check(lower("\u039f\u03a3\u039f") == Words({"\u03bf\u03c3\u03bf"}), "inside");
  check(lower("\u039f\u0301\u03a3\u0301 \u039f") == Words({"\u03bf\u03c2", "\u03bf"}),
        "marks are looked through");
  check(lower("\u039f'\u03a3.\u039f") == Words({"\u03bf", "'", "\u03c3", ".", "\u03bf"}),
        "so is some punctuation: a cased letter follows");
  check(lower("\u039f'\u03a3.1") == Words({"\u03bf", "'", "\u03c2", ".", "1"}), "no cased letter follows");
  check(lower("\u039f\u200b\xff\u03a3\u00ad\x80\u039f") == Words({"\u03bf\u03c3\u03bf"}),
        "what is removed does not count, invalid bytes included");
  check(lower("\u039f\u03a3\u4e2d\u03a3") == Words({"\u03bf\u03c2", "\u4e2d", "\u03c3"}),
        "Chinese separates");
}

// U+302E (class 224) is a spacing mark and stays; U+0323 (220) and U+0301 (230) go.
void test_marks() {
  check(words_of(kUncased, "a\u0301\u302e\u0323b") == Words({"a\u302eb"}), "a mark that stays");
  check(spans_of(kUncased, "a\u0301\u302e\u0323b") == Spans({{0, 1}, {2, 3}, {4, 5}}),
        "it takes the place it is sorted to");
  check(spans_of(kUncased, "a\u0301\u0301\u302e") == Spans({{0, 1}, {1, 2}}), "sorted to the front");
  check(spans_of(kUncased, "a\u0301\u200b\u302e") == Spans({{0, 1}, {1, 2}}), "past what is removed");
  check(words_of(kUncased, "a\u302e\U0001d165") == Words({"a\U0001d165\u302e"}), "216 comes before 224");
  check(words_of(kCased, "a\u302e\U0001d165") == Words({"a\u302e\U0001d165"}),
        "nothing is sorted unless stripped");
  check(words_of(kUncased, "\u302e\U0001d165 \u302e") == Words({"\U0001d165\u302e", "\u302e"}),
        "marks without a letter");
  check(words_of(kUncased, "\u302e\U0001d15e\U0001d165\U0001d160") ==
            Words({"\u302e\U0001d157\U0001d165\U0001d165\U0001d158\U0001d165\U0001d16e"}),
        "letters that bring marks of their own");
  check(spans_of(kUncased, "\U0001d15e\U0001d165") == Spans({{0, 1}, {0, 1}, {1, 2}}), "and their places");
  check(words_of(kUncased, "\u0344\u0f73\u0301").empty(), "nothing but accents");
  const std::string many = repeat("\u302e\U0001d165\u0301", 500);
  check(words_of(kUncased, many, kNoLimit) == Words({repeat("\U0001d165", 500) + repeat("\u302e", 500)}),
        "a long run");
}

void test_places() {
  check(spans_of(kUncased, "\u200bA\u00e9\u0301 \ud55c\u4e2d-") ==
            Spans({{1, 2}, {2, 3}, {5, 6}, {5, 6}, {5, 6}, {6, 7}, {7, 8}}),
        "places of characters");
  check(spans_of({.strip_accents = false}, "\u0130x") == Spans({{0, 1}, {0, 1}, {1, 2}}), "both from one");
  check(spans_of(kUncased, "\xf0\x9f\x98x\xffy") == Spans({{1, 2}, {3, 4}}),
        "an invalid piece is one character");
  check(characters_in("a\u00e9\u4e2d\U0001d165 \xe2\x82") == 6, "characters of a chunk");
}

void test_long_words() {
  Normalizer::Scratch scratch;
  const auto measure = [&](std::string_view text, std::size_t max_chars) {
    std::vector<std::size_t> sizes;
    Normalizer(kUncased).for_each_word<true>(text, max_chars, scratch, [&](const Word& word) {
      sizes.insert(sizes.end(), {word.text.size(), word.characters, word.spans.size()});
    });
    return sizes;
  };
  using Sizes = std::vector<std::size_t>;
  for (const std::string_view letter : {"a", "\u03b2", "\u0915", "\U00010428"}) {
    const std::size_t bytes = letter.size();
    check(measure(repeat(letter, 99) + " " + repeat(letter, 1000), 100) ==
              Sizes({99 * bytes, 99, 99, 101 * bytes, 1000, 101}),
          "one character more than the limit is kept");
    check(measure(repeat(letter, 10000), kNoLimit) == Sizes({10000 * bytes, 10000, 10000}), "no limit");
    check(measure(letter, 0) == Sizes({bytes, 1, 1}), "a limit of nothing");
  }
  check(measure("ab\u0301c", 2) == Sizes({3, 3, 3}), "characters are counted after normalisation");
  check(words_of(kUncased, "abc\u00e9f-x", 2) == Words({"abc", "-", "x"}), "the next word begins anew");
}

void test_utf8() {
  // "?" stands for one U+FFFD; lengths as Python's decoder with errors="replace" has them.
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"\x80", "?"},
      {"\xc0\xaf", "??"},
      {"\xc3", "?"},
      {"\xc3(", "?("},
      {"\xe0\x80\x80", "???"},
      {"\xe2\x82", "?"},
      {"\xe2\x82(", "?("},
      {"\xed\xa0\x80", "???"},
      {"\xf0\x80\x80\x80", "????"},
      {"\xf0\x9f\x98", "?"},
      {"\xf0\x9f\x98(", "?("},
      {"\xf0\x9f(\x98", "?(?"},
      {"\xf4\x90\x80\x80", "????"},
      {"\xf5\x80", "??"},
      {"\xff\xfe", "??"},
      {"\xe2\xe2\x82\xac\xac", "?\u20ac?"},
  };
  for (const auto& [bytes, expected] : cases) {
    std::string text;
    std::vector<const unsigned char*> borders;
    const auto* const begin = reinterpret_cast<const unsigned char*>(bytes.data());
    const unsigned char* const end = begin + bytes.size();
    const unsigned char* at = begin;
    while (at < end) {
      borders.push_back(at);
      const Utf8Unit unit = read_utf8(at, end);
      const Utf8Bytes utf8 = to_utf8(unit.code == 0xFFFD ? U'?' : unit.code);
      for (std::uint32_t i = 0; i < utf8.length; ++i) {
        text.push_back(static_cast<char>(utf8.bytes >> (8 * i)));
      }
      at += unit.length;
    }
    check(text == expected, "invalid UTF-8, forwards");
    for (; !borders.empty(); borders.pop_back()) {
      at = previous_utf8(begin, at);
      check(at == borders.back(), "invalid UTF-8, backwards");
    }
    check(words_of(kUncased, bytes) == words_of(kUncased, expected == "?(" || expected == "?(?" ? "("
                                                          : expected == "?\u20ac?"              ? "\u20ac"
                                                                                                : ""),
          "invalid bytes are removed");
  }
  check(words_of(kNothing, "a\xffz") == Words({"a\ufffdz"}), "or become U+FFFD");
  for (char32_t code = 1; code < 0x110000; code += 7) {
    const Utf8Bytes utf8 = to_utf8(code);
    const auto* const bytes = reinterpret_cast<const unsigned char*>(&utf8.bytes);
    const bool surrogate = code >= 0xD800 && code < 0xE000;
    if (!surrogate &&
        (read_utf8(bytes, bytes + 4).code != code || read_utf8(bytes, bytes + 4).length != utf8.length)) {
      check(false, "every code point survives UTF-8");
    }
  }
}

void test_data() {
  const CharacterData& data = CharacterData::of(Compat::slow);
  check(&data == &CharacterData::of(Compat::slow), "made once");
  check((data.properties(U'!') & edad_fast::wordpiece::kPunctuationProperty) != 0, "punctuation");
  check(data.properties(0x301) >> edad_fast::wordpiece::kCombiningClassShift == 230, "a combining class");
  check(data.runs().front().begin == 0, "from the first code point on");
  std::u32string out;
  data.append_decomposition(0x1EA5, out);
  check(out == U"a\u0302\u0301", "decompositions are complete");
}

void test_threads() {
  const std::string text = repeat("\u0391\u03a3 na\u00efve \ud55c a\u302e\U0001d165 ", 50);
  std::vector<Words> results(4);
  {
    std::vector<std::jthread> threads;
    for (Words& result : results) {
      threads.emplace_back([&] {
        result = words_of({Compat::slow, true, false, true, true}, text);
      });  // a plan not made before
    }
  }
  check(results[0].size() == 200, "words of every thread");
  for (const Words& result : results) {
    check(result == results[0], "threads share plans");
  }
}

}  // namespace

int main() {
  test_words();
  test_modes();
  test_sigma();
  test_marks();
  test_places();
  test_long_words();
  test_utf8();
  test_data();
  test_threads();
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
