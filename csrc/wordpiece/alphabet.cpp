#include "alphabet.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "utf8.hpp"

namespace edad_fast::wordpiece {
namespace {

void append_character(std::string& text, std::uint32_t code) {
  const auto byte = [&](std::uint32_t value) { text.push_back(static_cast<char>(value)); };
  if (code < 0x80) {
    byte(code);
    return;
  }
  if (code < 0x800) {
    byte(0xC0 | code >> 6);
  } else if (code < 0x10000) {
    byte(0xE0 | code >> 12);
    byte(0x80 | (code >> 6 & 0x3F));
  } else {
    byte(0xF0 | code >> 18);
    byte(0x80 | (code >> 12 & 0x3F));
    byte(0x80 | (code >> 6 & 0x3F));
  }
  byte(0x80 | (code & 0x3F));
}

// Words of at most max_word_chars characters, with code points in place of symbols.
SplitWords decode(const CountList& list, std::size_t max_word_chars) {
  SplitWords result;
  result.cells.reserve(list.text.size() + SplitWords::kHead * list.size());
  result.words.reserve(list.size());
  std::int64_t characters = 0;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string_view word = list.word(i);
    const std::size_t begin = result.cells.size();
    if (begin > std::numeric_limits<std::uint32_t>::max() - word.size() - SplitWords::kHead) {
      throw std::runtime_error("too many words to learn from: they need more than 2**32 places");
    }
    result.cells.resize(begin + SplitWords::kHead);
    for (std::size_t position = 0; position < word.size();) {
      const std::uint32_t code = next_character(word, position);
      if (code == kNoCharacter) {
        throw std::invalid_argument("word " + std::to_string(i) + " is not valid UTF-8");
      }
      result.cells.push_back(code);
    }
    const std::size_t length = result.cells.size() - begin - SplitWords::kHead;
    if (length == 0 || length > max_word_chars) {
      result.cells.resize(begin);
      continue;
    }
    // All sums from here on are at most this one.
    const std::int64_t count = list.counts[i];
    const auto room = std::numeric_limits<std::int64_t>::max() - characters;
    if (count > room / static_cast<std::int64_t>(length)) {
      throw std::invalid_argument("the counted words hold more than 2**63 - 1 characters; divide the counts");
    }
    characters += count * static_cast<std::int64_t>(length);
    result.cells[begin] = static_cast<std::uint32_t>(length);
    std::memcpy(&result.cells[begin + 1], &count, sizeof(count));
    result.words.push_back(static_cast<std::uint32_t>(begin));
  }
  return result;
}

// For each code point whether it is kept: the most frequent ones, ties by code point.
std::vector<bool> choose_alphabet(const SplitWords& words, const LearnOptions& options) {
  std::vector<std::int64_t> counts(kCodePoints);
  for (const std::uint32_t word : words.words) {
    const std::int64_t count = words.count(word);
    for (std::uint32_t i = 0; i < words.cells[word]; ++i) {
      counts[words.cells[word + SplitWords::kHead + i]] += count;
    }
  }
  std::vector<std::uint32_t> ranked;
  for (std::uint32_t code = 0; code < kCodePoints; ++code) {
    if (counts[code] >= options.min_frequency) {
      ranked.push_back(code);
    }
  }
  std::ranges::stable_sort(ranked, std::ranges::greater{}, [&](std::uint32_t code) { return counts[code]; });
  ranked.resize(std::min(ranked.size(), options.alphabet_limit));
  std::vector<bool> kept(kCodePoints);
  for (const std::uint32_t code : ranked) {
    kept[code] = true;
  }
  return kept;
}

}  // namespace

SplitWords split_words(const CountList& list, const LearnOptions& options) {
  SplitWords result = decode(list, options.max_word_chars);
  const std::vector<bool> kept = choose_alphabet(result, options);
  constexpr std::size_t kHead = SplitWords::kHead;
  std::vector<std::uint32_t>& cells = result.cells;

  // Drop words with other characters, moving the rest together; number the letters that are left.
  std::vector<bool> starts(kCodePoints);
  std::vector<bool> inside(kCodePoints);
  std::size_t end = 0;
  std::size_t kept_words = 0;
  for (const std::uint32_t word : result.words) {
    const auto first = cells.begin() + word;
    const auto last = first + static_cast<std::ptrdiff_t>(kHead + cells[word]);
    if (!std::all_of(first + kHead, last, [&](std::uint32_t code) { return kept[code]; })) {
      continue;
    }
    starts[first[kHead]] = true;
    std::for_each(first + kHead + 1, last, [&](std::uint32_t code) { inside[code] = true; });
    result.words[kept_words++] = static_cast<std::uint32_t>(end);
    end = static_cast<std::size_t>(std::copy(first, last, cells.begin() + static_cast<std::ptrdiff_t>(end)) -
                                   cells.begin());
  }
  result.words.resize(kept_words);
  cells.resize(end);

  std::vector<Symbol> start_symbols(kCodePoints);
  std::vector<Symbol> inside_symbols(kCodePoints);
  const auto number = [&](const std::vector<bool>& present, const std::string& prefix,
                          std::vector<Symbol>& symbols) {
    for (std::uint32_t code = 0; code < kCodePoints; ++code) {
      if (present[code]) {
        symbols[code] = static_cast<Symbol>(result.letters.size());
        append_character(result.letters.emplace_back(prefix), code);
      }
    }
  };
  number(starts, "", start_symbols);
  number(inside, options.prefix, inside_symbols);
  result.frequencies.resize(result.letters.size());
  for (const std::uint32_t word : result.words) {
    const std::int64_t count = result.count(word);
    for (std::size_t i = 0; i < cells[word]; ++i) {
      std::uint32_t& cell = cells[word + kHead + i];
      cell = i == 0 ? start_symbols[cell] : inside_symbols[cell];
      result.frequencies[cell] += count;
    }
  }
  return result;
}

}  // namespace edad_fast::wordpiece
