// What Python calls: raw pointers and sizes in, nothing of Python or torch linked.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "attention.hpp"
#include "cross_entropy.hpp"
#include "instruction_set.hpp"
#include "team.hpp"

namespace {

constexpr std::int64_t PIECE = 1 << 20;  // bf16 numbers that are worth a thread

const char* advanced(const void* data, std::ptrdiff_t elements, std::size_t size) {
  return static_cast<const char*>(data) + elements * static_cast<std::ptrdiff_t>(size);
}

}  // namespace

extern "C" {

struct EdadFastTensor {
  const void* data;
  std::int64_t batch, head, row;  // strides in elements
};

// Which functions these are: to be changed with any of their arguments, here and in __init__.py.
int edad_fast_cpu_version() { return 2; }

// One layer. tensors: student_q, student_k, teacher_q, teacher_k, grad_q, grad_k (the last two may have no
// data). Sequences are rows of `batch`, or pieces [starts[i], starts[i + 1]) of the only row. Sums, one for
// each head of each sequence, are written to `sums`. Returns 0, or 1 where memory ran out.
int edad_fast_attention(const EdadFastTensor* tensors, std::int64_t sequences, std::int64_t heads,
                        std::int64_t length, const std::int32_t* starts, const std::int32_t* segments,
                        std::int64_t student_width, std::int64_t teacher_width, double student_scale,
                        double teacher_scale, double gradient_factor, int dtype, int tinybert, int linear,
                        int threads, double* sums) {
  const edad_fast::HeadFunction function = EDAD_FAST_BEST(functions).attention_head;
  const auto kind = static_cast<edad_fast::Dtype>(dtype);
  const std::size_t size = kind == edad_fast::Dtype::fp32 ? 4 : 2;
  const std::size_t gradient_size = kind == edad_fast::Dtype::bf16 ? 2 : 4;
  const std::int64_t items = sequences * heads;
  const std::int64_t team_size = std::clamp<std::int64_t>(threads, 1, std::max<std::int64_t>(items, 1));
  const edad_fast::Options options{kind,
                                   static_cast<std::size_t>(student_width),
                                   static_cast<std::size_t>(teacher_width),
                                   static_cast<float>(student_scale),
                                   static_cast<float>(teacher_scale),
                                   gradient_factor,
                                   tinybert != 0,
                                   linear != 0};
  auto head_of = [&](std::int64_t item) {
    const std::int64_t sequence = item / heads, head = item % heads;
    const std::int64_t batch = starts ? 0 : sequence, first = starts ? starts[sequence] : 0;
    auto place = [&](int index, std::size_t bytes) {
      const EdadFastTensor& x = tensors[index];
      return x.data ? advanced(x.data, batch * x.batch + head * x.head + first * x.row, bytes) : nullptr;
    };
    auto rows = [&](int index) { return edad_fast::Rows{place(index, size), tensors[index].row}; };
    return edad_fast::Head{
        rows(0),
        rows(1),
        rows(2),
        rows(3),
        const_cast<char*>(place(4, gradient_size)),
        const_cast<char*>(place(5, gradient_size)),
        tensors[4].row,
        tensors[5].row,
        segments ? segments + batch * length : nullptr,
        static_cast<std::size_t>(starts ? starts[sequence + 1] - starts[sequence] : length)};
  };
  const bool done = edad_fast::for_each_item(items, threads, [&](std::int64_t item) {
    const bool more = item + team_size < items;
    const edad_fast::Head following = head_of(more ? item + team_size : item);
    sums[item] = function(head_of(item), more ? &following : nullptr, options);
  });
  return done ? 0 : 1;
}

// Rows of logits [rows, classes] without gaps, bf16 or fp32, in their own memory; see cross_entropy.hpp.
int edad_fast_cross_entropy(void* logits, std::int64_t rows, std::int64_t classes, const float* bias,
                            const std::int64_t* labels, double label_smoothing, double z_loss, int bf16,
                            int gradient, int threads, double* losses) {
  const edad_fast::RowFunction function = EDAD_FAST_BEST(cross_entropy_row);
  const edad_fast::RowOptions options{
      static_cast<std::size_t>(classes), bias, label_smoothing, z_loss, bf16 != 0, gradient != 0};
  const bool done = edad_fast::for_each_item(rows, threads, [&](std::int64_t row) {
    losses[row] = function(static_cast<char*>(logits) + row * classes * (bf16 ? 2 : 4), labels[row], options);
  });
  return done ? 0 : 1;
}

// Sums of the columns of x [rows, columns] without gaps, bf16 or fp32, into fp32.
int edad_fast_column_sums(const void* x, std::int64_t rows, std::int64_t columns, int bf16, int threads,
                          float* sums) {
  constexpr std::int64_t BLOCK = 4096;  // columns whose sums stay in the cache
  const edad_fast::ColumnFunction function = EDAD_FAST_BEST(column_sums);
  const bool done = edad_fast::for_each_item((columns + BLOCK - 1) / BLOCK, threads, [&](std::int64_t block) {
    const std::int64_t first = block * BLOCK;
    function(static_cast<const char*>(x) + first * (bf16 ? 2 : 4), static_cast<std::size_t>(rows),
             static_cast<std::size_t>(columns), static_cast<std::size_t>(std::min(BLOCK, columns - first)),
             bf16 != 0, sums + first);
  });
  return done ? 0 : 1;
}

// target = source * factor[0], bf16 [count]. Returns 0.
int edad_fast_scale(const std::uint16_t* source, std::uint16_t* target, std::int64_t count,
                    const float* factor, int threads) {
  const edad_fast::ScaleFunction function = EDAD_FAST_BEST(functions).scale;
  edad_fast::for_each_item((count + PIECE - 1) / PIECE, threads, [&](std::int64_t piece) {
    const std::int64_t first = piece * PIECE, last = std::min(first + PIECE, count);
    function(source + first, target + first, static_cast<std::size_t>(last - first), *factor);
  });
  return 0;
}
}
