// Learns WordPieces from word counts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "count_list.hpp"

namespace edad_fast::wordpiece {

// Which pair of neighbouring symbols is merged next; f counts occurrences in the words as split so far.
//   frequency:  the greatest f(ab)
//   likelihood: the greatest f(ab) / (f(a) f(b)), compared exactly
enum class Criterion : std::uint8_t { frequency, likelihood };

struct LearnOptions {
  std::size_t size = 0;  // most pieces, letters included
  Criterion criterion = Criterion::frequency;
  std::int64_t min_frequency = 2;     // least count of a pair to be merged, and of a character to be kept
  std::size_t max_piece_chars = 0;    // most characters of a merged piece, without the prefix; 0: no limit
  std::size_t alphabet_limit = 1000;  // most characters kept, by falling count, then by code point
  std::string prefix = "##";          // in front of pieces inside a word
  std::size_t max_word_chars = 100;   // longer words are left out
};

struct Learned {
  std::vector<std::string> pieces;
  std::vector<std::int64_t> counts;  // occurrences of a letter, or of a pair at the moment it was merged
};

// Called with the pieces so far and the pieces wanted, at most some hundred times; false stops.
using Progress = std::function<bool(std::size_t done, std::size_t size)>;

// Pieces in learning order: the letters that start words by code point, then the prefixed letters inside
// words, then merged pieces. Words with a character that is not kept are left out. Pairs are merged
// everywhere at once, from left to right; of equally good pairs the one with the smaller left, then the
// smaller right id (place in the list) goes first. A pair that spells a piece there is becomes that piece,
// and the list does not grow. The result depends on the arguments alone, and a smaller size gives the
// beginning of what a larger one gives.
//
// Throws std::invalid_argument: min_frequency below 1, an empty prefix, invalid UTF-8, counts whose
// characters exceed 64 bits; std::runtime_error: "interrupted" by `progress`, or more words than 32-bit
// places allow.
Learned learn(const CountList& list, const LearnOptions& options, const Progress& progress = {});

}  // namespace edad_fast::wordpiece
