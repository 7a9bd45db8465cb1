// Rows of a training step, filled from memory-mapped tokens and masked: bit for bit what
// edad_fast/batches/rows.py does with numpy, in one pass, a row at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "batches/masking.hpp"

namespace edad_fast::batches {

// All tokens of a corpus; every file but the last holds tokens_per_file of them.
struct Tokens {
  std::vector<std::span<const std::int32_t>> files;
  std::int64_t tokens_per_file = 0;
};

// `Spans` of edad_fast/batches/packing.py: [n] each, by ascending row and, inside a row, ascending origin.
struct Spans {
  std::span<const std::int64_t> row, start, length, column, origin, segment, token_type;
};

struct RowOptions {
  std::int64_t seq_len = 0, cls_id = 0, sep_id = 0, pad_id = 0;
  MaskOptions mask;
};

// Memory that `fill` writes, for R rows of L tokens. `positions`, `labels` and `begins` have room for R * L
// and are filled as far as `Totals` says.
struct Rows {
  std::int64_t* input_ids;       // [R, L]
  std::int32_t* segment_ids;     // [R, L]
  std::int64_t* position_ids;    // [R, L]
  std::int64_t* token_type_ids;  // [R, L]
  std::int64_t* positions;       // masked positions, flat into R * L, ascending
  std::int64_t* labels;          // the tokens that stood there
  std::int64_t* begins;          // where segments and stretches of padding begin, flat into R * L
  std::int64_t* masked;          // [R]: masked positions
  std::int64_t* begun;           // [R]: segments and stretches of padding
  std::int64_t* tokens;          // [R]: non-padding tokens
  std::int64_t* pairs;           // [R]: pairs of tokens of one segment
  std::uint8_t* full;            // [R]: 1 for one segment without padding
};

// Sums of `masked` and `begun`.
struct Totals {
  std::size_t masked = 0, begun = 0;
};

// epochs, rows: [R], the keys of each row's masks.
// Throws std::out_of_range: a span outside the files, or a token outside the vocabulary (damaged shards);
// std::invalid_argument: anything else that does not fit. What was written by then is of no use.
Totals fill(const Tokens& tokens, const Spans& spans, const RowOptions& options,
            std::span<const std::int64_t> epochs, std::span<const std::int64_t> rows, const Rows& out);

}  // namespace edad_fast::batches
