// Which tokens of a row are predicted, and what takes their place: bit for bit edad_fast/batches/masking.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace edad_fast::batches {

struct MaskOptions {
  std::span<const std::uint8_t> special;       // [V]: tokens never chosen
  std::span<const std::uint8_t> continuation;  // [V]: whole words are chosen, these go on with one; or empty
  std::span<const std::int64_t> replacements;  // ids that random tokens are drawn from
  std::int64_t mask_id = 0;
  double probability = 0.0;
  std::uint64_t seed = 0;
};

class Masker {
 public:
  // Throws std::invalid_argument: tables of different sizes, no replacements, a probability outside 0 to 1,
  // a row of no tokens or more than 2^24.
  Masker(const MaskOptions& options, std::size_t seq_len);

  // Masks one row in place, its ids all below V. Writes the chosen columns, ascending, each plus `first`, and
  // the tokens that stood there; both have room for seq_len. Returns their number.
  std::size_t mask_row(std::int64_t* ids, std::int64_t epoch, std::int64_t row, std::int64_t first,
                       std::int64_t* positions, std::int64_t* labels);

 private:
  struct Word {
    std::uint64_t key;
    std::size_t start, size;
  };

  std::uint64_t threshold(std::size_t budget, std::size_t ordinary);
  std::size_t choose_tokens(const std::int64_t* ids, std::uint64_t key, std::int64_t* columns);
  std::size_t choose_words(const std::int64_t* ids, std::uint64_t key, std::int64_t* columns);

  MaskOptions options_;
  unsigned bits_;                    // a column's
  std::vector<std::uint64_t> keys_;  // [seq_len]
  std::vector<std::uint64_t> few_;   // [seq_len]
  std::vector<Word> words_;
  std::vector<std::uint8_t> chosen_;  // [seq_len]
};

}  // namespace edad_fast::batches
