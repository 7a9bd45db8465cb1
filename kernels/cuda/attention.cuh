// Arguments of the CUDA attention-score loss; Python fills the same structure through ctypes.
#pragma once

#include <cstdint>

namespace edad_fast {

constexpr int MAX_LAYERS = 16;

struct Strides {  // in elements; a row's elements are adjacent
  std::int64_t batch, head, row;
};

// Arrays of two: queries, keys.
struct AttentionArguments {
  const void* student[2][MAX_LAYERS];
  const void* teacher[2][MAX_LAYERS];
  void* gradient[2];               // of the first layer, or null
  const std::int32_t* segments;    // [sequences, length] or null
  const std::int32_t* cu_seqlens;  // [sequences + 1] or null
  float* sums;
  Strides student_strides[2], teacher_strides[2], gradient_strides[2];
  std::int64_t gradient_layer[2];
  std::int32_t layers, sequences, heads, length, student_width, teacher_width;
  float student_scale, teacher_scale;
  std::uint8_t half;  // inputs in fp16, gradients in fp32; else both in bf16
  std::uint8_t tinybert;
  // Rows start at multiples of 4 bytes; rows are multiples of 16 bytes and start at such.
  std::uint8_t student_even[2], teacher_even[2], student_whole[2], teacher_whole[2];
};

}  // namespace edad_fast
