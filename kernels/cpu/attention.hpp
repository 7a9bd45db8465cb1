// The attention-score loss of one head on a CPU: arguments, and one implementation for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edad_fast {

enum class Dtype : int { fp32 = 0, bf16 = 1, fp16 = 2 };

// Rows of one head's queries or keys.
struct Rows {
  const void* data;
  std::ptrdiff_t stride;  // elements between rows; a row's elements are adjacent
};

struct Head {
  Rows student_q, student_k, teacher_q, teacher_k;
  void* grad_q;  // null: not wanted. fp32 where the inputs are fp16, else of their dtype.
  void* grad_k;
  std::ptrdiff_t grad_q_stride, grad_k_stride;
  const std::int32_t* segments;  // [length]; null: all are tokens of one segment
};

struct Options {
  Dtype dtype;
  std::size_t length, student_width, teacher_width;
  float student_scale, teacher_scale;
  bool tinybert, linear;
};

// Half gradients of the sum of squared score differences are written, the sum is returned.
using HeadFunction = double (*)(const Head& head, const Options& options);

namespace avx512bf16 {
double attention_head(const Head& head, const Options& options);
}
namespace avx512 {
double attention_head(const Head& head, const Options& options);
}
namespace avx2 {
double attention_head(const Head& head, const Options& options);
}
namespace portable {
double attention_head(const Head& head, const Options& options);
}

}  // namespace edad_fast
