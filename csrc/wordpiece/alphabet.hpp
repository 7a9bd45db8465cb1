// The words to learn from, as symbols of the letters that are kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "count_list.hpp"
#include "learn.hpp"
#include "pair_table.hpp"

namespace edad_fast::wordpiece {

// Words lie one behind the other in `cells`, so that a visit to a word costs one cache miss: its number of
// symbols, its count (two cells), its symbols. A word shrinks where it lies when symbols are merged.
struct SplitWords {
  static constexpr std::size_t kHead = 3;

  std::vector<std::uint32_t> cells;
  std::vector<std::uint32_t> words;       // where each word begins
  std::vector<std::string> letters;       // pieces 0, 1, ...: word-initial by code point, then inside ones
  std::vector<std::int64_t> frequencies;  // occurrences of each letter in the words

  std::int64_t count(std::uint32_t word) const {
    std::int64_t value;
    std::memcpy(&value, &cells[word + 1], sizeof(value));
    return value;
  }
};

// Throws as learn().
SplitWords split_words(const CountList& list, const LearnOptions& options);

}  // namespace edad_fast::wordpiece
