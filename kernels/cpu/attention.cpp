// What library.cpp calls, compiled once for each instruction set.

#include "direct.hpp"
#include "linear.hpp"

namespace edad_fast::EDAD_FAST_ARCH {
namespace {

struct Scratch {
  DirectScratch direct;
  LinearScratch<float> linear;
  LinearScratch<double> wide;
  Buffer<std::int32_t> index[2], ids[2];
};

// Queries or keys that count; queries in padding do in mode tinybert.
Kept keep(const std::int32_t* segments, std::size_t length, bool padding, Buffer<std::int32_t>& indices,
          Buffer<std::int32_t>& ids) {
  const std::size_t filled = padded(length, PANEL);
  std::int32_t* index = indices.get(filled);
  std::int32_t* id = ids.get(filled);
  std::size_t count = 0;
  for (std::size_t row = 0; row < length; ++row) {
    const std::int32_t segment = segments ? segments[row] : 1;
    index[count] = static_cast<std::int32_t>(row);
    id[count] = segment > 0 ? segment : ANY;
    count += segment > 0 || padding;
  }
  std::fill(id + count, id + filled, NONE);
  return {count < length ? index : nullptr, id, count};
}

// Whether every query sees every key.
bool all_pairs(const Kept& queries, const Kept& keys) {
  const std::int32_t id = keys.ids[0];
  return std::all_of(keys.ids, keys.ids + keys.count, [&](std::int32_t x) { return x == id; }) &&
         std::all_of(queries.ids, queries.ids + queries.count,
                     [&](std::int32_t x) { return x == id || x == ANY; });
}

double attention_head(const Head& head, const Head* next, const Options& o) {
  thread_local Scratch scratch;
  const Kept queries = keep(head.segments, head.length, o.tinybert, scratch.index[0], scratch.ids[0]);
  const Kept keys = keep(head.segments, head.length, false, scratch.index[1], scratch.ids[1]);
  if (head.grad_q && (queries.index || !keys.count)) {
    clear_others(keys.count ? queries : keys, head.length, o.student_width, o.dtype, head.grad_q,
                 head.grad_q_stride);
  }
  if (head.grad_k && keys.index) {
    clear_others(keys, head.length, o.student_width, o.dtype, head.grad_k, head.grad_k_stride);
  }
  if (keys.count == 0) return 0;
  if (!o.linear) return direct(head, next, o, queries, keys, all_pairs(queries, keys), scratch.direct);
  if (o.dtype == Dtype::fp32) return linear<Double>(head, next, o, queries, keys, scratch.wide);
  if (HAS_PAIRS && o.dtype == Dtype::bf16) return linear<Pair>(head, next, o, queries, keys, scratch.linear);
  return linear<Single>(head, next, o, queries, keys, scratch.linear);
}

void scale(const std::uint16_t* source, std::uint16_t* target, std::size_t count, float factor) {
  for_groups(count, [&](std::size_t i, std::size_t size) {
    const Words16 bits = rounded(widened(load_group<Halves16>(source + i, size)) * factor);
    store_some(__builtin_convertvector(bits, Halves16), target + i, size);
  });
}

}  // namespace

extern const Functions functions{attention_head, scale};

}  // namespace edad_fast::EDAD_FAST_ARCH
