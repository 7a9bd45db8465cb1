// Puts learned pieces behind a general vocabulary, each of them in use, and finds the size by AdaLM's rule.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "count_list.hpp"
#include "learn.hpp"

namespace edad_fast::wordpiece {

struct MergeOptions {
  std::size_t size = 0;    // rows wanted; not used if `automatic`
  bool automatic = false;  // AdaLM's rule decides, see merge()
  double threshold = 0.01;
  std::size_t interval = 10000;
  std::size_t max_size = 0;         // most rows; used if `automatic`
  bool reuse_unused = false;        // new pieces first take the rows [unused0], [unused1], ...
  std::size_t pad_to_multiple = 0;  // rows are filled up with new pieces [unusedN]; 0: no
  std::int32_t unk_id = 0;
  std::string prefix = "##";
  std::size_t max_chars = 100;  // a word of more characters is one unk_id
};

// The state of the vocabulary at some moment. With c_t the count of token t and C their sum, log_likelihood
// is the sum over t of c_t ln(c_t / C), that is |D| P(D) in the terms of AdaLM.
struct MergePoint {
  std::size_t size = 0;  // rows
  std::int64_t tokens = 0;
  double log_likelihood = 0;
  double gain = 0;  // of a step of the automatic search over the one before it; NaN elsewhere
};

enum class MergeEnd : std::uint8_t { size, threshold, max_size, candidates };  // what ended the merge

struct Merged {
  std::vector<std::string> pieces;
  std::vector<std::int64_t> counts;  // of each piece in the final segmentation of all words
  std::size_t general_size = 0;
  std::vector<std::int32_t> added;  // rows of the new pieces, in learning order
  std::size_t passed_over = 0;      // candidates looked at that no word makes use of
  std::size_t padding = 0;          // rows at the end that fill up to the multiple
  MergeEnd end = MergeEnd::size;
  std::vector<MergePoint> curve;  // the general vocabulary, then after every piece that came into use
  std::vector<MergePoint> steps;  // automatic: the sizes at which the rule looked, computed afresh
};

// Candidates are taken in order; those that the general vocabulary has are skipped. All words are split as
// BERT splits them (greedy, longest match first) with the vocabulary of the moment, counts are exact after
// every piece, and a new piece that no word uses (any more) is dropped at once. Dropping it changes no word's
// pieces: a piece is used where it is the longest that fits, and this one is so nowhere (but a word for which
// it was, and which it left without a segmentation, is split again). Hence the vocabulary grows by at most
// one a candidate and meets every size exactly.
//
// Ends at `size` rows, or with fewer when the candidates run out. Automatic: looks when the vocabulary has
// general + interval, general + 2 interval, ... rows, and ends at the first of them with
//   gain = 1 - (C H) / (C H of the look before) <= threshold, where C H = -log_likelihood;
// or at max_size rows, or when the candidates run out.
// Rows that `reuse_unused` may take are those of pieces "[unusedN]" that no word uses; ids of all other
// general pieces stay. Words without a segmentation, words that are too long, and long_words are one unk_id
// each.
//
// Throws std::invalid_argument: a piece is empty, a general piece appears twice, unk_id is no general piece,
// size or max_size is below the general vocabulary, interval is 0; std::runtime_error: "interrupted" by
// `progress` (called with the new pieces so far and the most there can be), or more than 4 GiB of words.
Merged merge(const std::vector<std::string>& general, const std::vector<std::string>& candidates,
             const CountList& list, const MergeOptions& options, const Progress& progress = {});

}  // namespace edad_fast::wordpiece
