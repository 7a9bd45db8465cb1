// Arguments of the CUDA hidden-state loss; Python fills the same structure through ctypes.
#pragma once

#include <cstdint>

#include "attention.cuh"

namespace edad_fast {

// Rows and columns of a tile of H W^T + b - T.
constexpr int HIDDEN_TILE = 128;

// Elements: 2 bytes, bf16 or (`half`) fp16, where nothing else is said. Row strides are in elements; a row's
// elements are adjacent. Student, weight and residual rows start at multiples of 16 bytes.
struct HiddenArguments {
  const void* student[MAX_LAYERS];  // [rows, width]
  const void* teacher[MAX_LAYERS];  // [rows, teacher_width], fp32 if `teacher_wide`
  const void* weight[MAX_LAYERS];   // [teacher_width, width], for each layer
  const float* bias[MAX_LAYERS];    // [teacher_width], for each layer, or null
  const std::uint8_t* valid;        // [rows] or null
  void* residual;                   // bf16 [1, or 2 if half][layers][chunk][residual_row], or null
  void* gradient;                   // of the states: bf16, or fp32 if `gradient_wide`; or null
  float* weight_parts;              // [weights][parts][teacher_width][width], or null
  float* column_sums;               // [layers][2 tiles of rows][teacher_width], or null
  float* sums;                      // [layers][tiles of rows][tiles of teacher_width]
  std::int64_t teacher_row, gradient_row, gradient_layer;
  std::int32_t student_row, weight_row, residual_row;
  std::int32_t layers, weights;  // one weight for all layers or one for each
  std::int32_t rows, chunk;      // chunk: rows at a time, a multiple of HIDDEN_TILE
  std::int32_t width, teacher_width, parts;
  std::uint8_t half, teacher_wide, gradient_wide;
  std::uint8_t teacher_whole;  // teacher rows start at multiples of 16 bytes
};

}  // namespace edad_fast
