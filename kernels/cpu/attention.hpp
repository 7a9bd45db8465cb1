// The attention-score loss on a CPU: arguments, and one implementation for each instruction set.
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
  std::size_t length;
};

struct Options {
  Dtype dtype;
  std::size_t student_width, teacher_width;
  float student_scale, teacher_scale;
  double gradient_factor;
  bool tinybert, linear;
};

// Half gradients of the sum of squared score differences, times the factor, are written, the sum is returned.
// `next` is the head that this thread will probably be given next (null: none): its rows are brought to the
// cache meanwhile.
using HeadFunction = double (*)(const Head& head, const Head* next, const Options& options);

// bf16 times an fp32 factor, rounded once.
using ScaleFunction = void (*)(const std::uint16_t* source, std::uint16_t* target, std::size_t count,
                               float factor);

struct Functions {
  HeadFunction attention_head;
  ScaleFunction scale;
};

namespace avx512bf16 {
extern const Functions functions;
}
namespace avx512 {
extern const Functions functions;
}
namespace avx2 {
extern const Functions functions;
}
namespace portable {
extern const Functions functions;
}

}  // namespace edad_fast
