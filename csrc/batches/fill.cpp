#include "batches/fill.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace edad_fast::batches {
namespace {

// Tokens from number `start` on to the end of their file; none where there is no such token.
std::span<const std::int32_t> tokens_from(const Tokens& tokens, std::int64_t start) {
  const std::int64_t per_file =
      tokens.files.size() == 1 ? std::numeric_limits<std::int64_t>::max() : tokens.tokens_per_file;
  if (start < 0 || start / per_file >= static_cast<std::int64_t>(tokens.files.size())) {
    return {};
  }
  const std::span<const std::int32_t> file = tokens.files[static_cast<std::size_t>(start / per_file)];
  const auto end = static_cast<std::size_t>(std::min(static_cast<std::int64_t>(file.size()), per_file));
  const auto place = static_cast<std::size_t>(start % per_file);
  return place < end ? file.subspan(place, end - place) : std::span<const std::int32_t>();
}

// Copies tokens start to start + length. Throws std::out_of_range.
void copy_tokens(const Tokens& tokens, std::int64_t start, std::int64_t length, std::size_t vocab_size,
                 std::int64_t* out) {
  while (length > 0) {
    std::span<const std::int32_t> part = tokens_from(tokens, start);
    if (part.empty()) {
      throw std::out_of_range("there is no token number " + std::to_string(start));
    }
    part = part.first(std::min(part.size(), static_cast<std::size_t>(length)));
    std::uint32_t largest = 0;
    for (std::size_t i = 0; i < part.size(); ++i) {
      const auto id = static_cast<std::uint32_t>(part[i]);  // below 0: above all
      largest = std::max(largest, id);
      out[i] = id;
    }
    if (largest >= vocab_size) {
      const auto bad = std::ranges::find_if(
          part, [&](std::int32_t id) { return static_cast<std::uint32_t>(id) >= vocab_size; });
      throw std::out_of_range("token " + std::to_string(*bad) + " is outside the vocabulary of " +
                              std::to_string(vocab_size));
    }
    out += part.size();
    start += static_cast<std::int64_t>(part.size());
    length -= static_cast<std::int64_t>(part.size());
  }
}

void check(const Tokens& tokens, const Spans& spans, const RowOptions& options, std::size_t n_rows,
           std::size_t n_epochs) {
  const std::size_t vocab_size = options.mask.special.size();
  for (const std::int64_t id : {options.cls_id, options.sep_id, options.pad_id, options.mask.mask_id}) {
    if (id < 0 || static_cast<std::size_t>(id) >= vocab_size) {
      throw std::invalid_argument("special token " + std::to_string(id) + " is outside the vocabulary of " +
                                  std::to_string(vocab_size));
    }
  }
  if (tokens.tokens_per_file < 1) {
    throw std::invalid_argument("tokens_per_file is " + std::to_string(tokens.tokens_per_file));
  }
  const std::size_t n = spans.row.size();
  for (const auto& column :
       {spans.start, spans.length, spans.column, spans.origin, spans.segment, spans.token_type}) {
    if (column.size() != n) {
      throw std::invalid_argument("the spans' arrays differ in size");
    }
  }
  if (n_rows != n_epochs) {
    throw std::invalid_argument("epochs and rows differ in size");
  }
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t previous_row = i == 0 ? 0 : spans.row[i - 1];
    const bool same_row = i > 0 && spans.row[i] == previous_row;
    const bool in_order =
        spans.row[i] >= previous_row && (!same_row || spans.origin[i] >= spans.origin[i - 1]);
    const bool fits = spans.row[i] < static_cast<std::int64_t>(n_rows) && spans.length[i] >= 0 &&
                      spans.length[i] < options.seq_len && spans.origin[i] >= 0 &&
                      spans.origin[i] < spans.column[i] && spans.column[i] < options.seq_len &&
                      spans.column[i] + spans.length[i] < options.seq_len;
    if (!in_order || !fits) {
      throw std::invalid_argument("span " + std::to_string(i) + " does not fit into " +
                                  std::to_string(n_rows) + " rows of " + std::to_string(options.seq_len) +
                                  " tokens");
    }
  }
}

}  // namespace

Totals fill(const Tokens& tokens, const Spans& spans, const RowOptions& options,
            std::span<const std::int64_t> epochs, std::span<const std::int64_t> rows, const Rows& out) {
  const std::size_t n_rows = rows.size();
  const auto seq_len = static_cast<std::size_t>(std::max<std::int64_t>(options.seq_len, 0));
  Masker masker(options.mask, seq_len);
  check(tokens, spans, options, n_rows, epochs.size());

  Totals totals;
  std::size_t span = 0;
  for (std::size_t row = 0; row < n_rows; ++row) {
    const std::size_t base = row * seq_len;
    std::int64_t* ids = out.input_ids + base;
    std::int32_t* segments = out.segment_ids + base;
    std::int64_t* places = out.position_ids + base;
    std::int64_t* types = out.token_type_ids + base;
    std::fill_n(ids, seq_len, options.pad_id);
    std::fill_n(segments, seq_len, 0);
    std::fill_n(places, seq_len, 0);
    std::fill_n(types, seq_len, 0);

    std::int64_t n_tokens = 0, n_pairs = 0;
    std::int64_t size = 0;  // of the segment so far
    for (; span < spans.row.size() && spans.row[span] == static_cast<std::int64_t>(row); ++span) {
      const std::int64_t origin = spans.origin[span], column = spans.column[span],
                         end = column + spans.length[span];
      const bool second = origin + 1 != column;  // a pair's second half shares its segment's [CLS]
      const bool goes_on =
          span > 0 && spans.row[span - 1] == spans.row[span] && spans.origin[span - 1] == origin;
      ids[origin] = options.cls_id;
      ids[end] = options.sep_id;
      copy_tokens(tokens, spans.start[span], end - column, options.mask.special.size(), ids + column);
      const std::int64_t first = second ? column : origin;
      std::fill(segments + first, segments + end + 1, static_cast<std::int32_t>(spans.segment[span]));
      std::fill(types + first, types + end + 1, spans.token_type[span]);
      for (std::int64_t cell = first; cell <= end; ++cell) {
        places[cell] = cell - origin;
      }
      const std::int64_t added = end - column + (second ? 1 : 2);
      n_pairs += added * (added + (goes_on ? 2 * size : 0));  // (size + added)^2 - size^2
      size = goes_on ? size + added : added;
      n_tokens += added;
    }
    out.tokens[row] = n_tokens;
    out.pairs[row] = n_pairs;

    std::int64_t* begins = out.begins + totals.begun;
    std::size_t n_begun = 0;
    for (std::size_t cell = 0; cell < seq_len; ++cell) {
      begins[n_begun] = static_cast<std::int64_t>(base + cell);
      n_begun += cell == 0 || segments[cell] != segments[cell - 1];
    }
    totals.begun += n_begun;
    out.begun[row] = static_cast<std::int64_t>(n_begun);
    out.full[row] = n_begun == 1 && segments[0] == 1;

    const std::size_t n_masked = masker.mask_row(ids, epochs[row], rows[row], static_cast<std::int64_t>(base),
                                                 out.positions + totals.masked, out.labels + totals.masked);
    totals.masked += n_masked;
    out.masked[row] = static_cast<std::int64_t>(n_masked);
  }
  return totals;
}

}  // namespace edad_fast::batches
