// Softmax cross-entropy of a row of logits on a CPU, and the sums of columns: one implementation for each
// instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edad_fast {

struct RowOptions {
  std::size_t classes;
  const float* bias;  // [classes] or null
  double label_smoothing, z_loss;
  bool bf16;  // logits are bf16, else fp32
  bool gradient;
};

// Returns the row's loss; with `gradient` the gradient of the logits takes their place.
using RowFunction = double (*)(void* logits, std::int64_t label, const RowOptions& options);
// Sums of `count` columns of x [rows, step], bf16 or fp32.
using ColumnFunction = void (*)(const void* x, std::size_t rows, std::size_t step, std::size_t count,
                                bool bf16, float* sums);

namespace avx512bf16 {
double cross_entropy_row(void* logits, std::int64_t label, const RowOptions& options);
void column_sums(const void* x, std::size_t rows, std::size_t step, std::size_t count, bool bf16,
                 float* sums);
}  // namespace avx512bf16
namespace avx512 {
double cross_entropy_row(void* logits, std::int64_t label, const RowOptions& options);
void column_sums(const void* x, std::size_t rows, std::size_t step, std::size_t count, bool bf16,
                 float* sums);
}  // namespace avx512
namespace avx2 {
double cross_entropy_row(void* logits, std::int64_t label, const RowOptions& options);
void column_sums(const void* x, std::size_t rows, std::size_t step, std::size_t count, bool bf16,
                 float* sums);
}  // namespace avx2
namespace portable {
double cross_entropy_row(void* logits, std::int64_t label, const RowOptions& options);
void column_sums(const void* x, std::size_t rows, std::size_t step, std::size_t count, bool bf16,
                 float* sums);
}  // namespace portable

}  // namespace edad_fast
