// Memory that will be read soon.
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>

#include "attention.hpp"

namespace edad_fast::EDAD_FAST_ARCH {
namespace {

// Rows that are wanted soon: brought to the cache a few at a time, in between tiles of products. Their
// strides are long where heads lie side by side, and no processor guesses them.
class Ahead {
 public:
  void start(std::initializer_list<Rows> matrices, std::initializer_list<std::size_t> widths, Dtype dtype,
             std::size_t first, std::size_t count) {
    const std::ptrdiff_t size = dtype == Dtype::fp32 ? 4 : 2;
    held_ = 0;
    rows_ = count;
    std::size_t lines = 0;
    auto width = widths.begin();
    for (const Rows& rows : matrices) {
      const std::ptrdiff_t stride = rows.stride * size;
      sources_[held_++] = {static_cast<const char*>(rows.data) + static_cast<std::ptrdiff_t>(first) * stride,
                           stride, *width++ * static_cast<std::size_t>(size)};
      lines += sources_[held_ - 1].bytes / LINE + 2;
    }
    rows_a_step_ = std::max<std::size_t>(LINES_A_STEP / lines, 1);
  }

  void step() {
    const std::size_t count = std::min(rows_, rows_a_step_);
    for (std::size_t row = 0; row < count; ++row) {
      for (std::size_t i = 0; i < held_; ++i) {
        Source& source = sources_[i];
        for (const char* line = source.data; line < source.data + source.bytes; line += LINE) {
          __builtin_prefetch(line, 0, 2);
        }
        __builtin_prefetch(source.data + source.bytes - 1, 0, 2);
        source.data += source.stride;
      }
    }
    rows_ -= count;
  }

 private:
  static constexpr std::size_t LINE = 64, LINES_A_STEP = 48;
  struct Source {
    const char* data;
    std::ptrdiff_t stride;
    std::size_t bytes;
  };
  Source sources_[4] = {};
  std::size_t held_ = 0, rows_ = 0, rows_a_step_ = 1;
};

}  // namespace
}  // namespace edad_fast::EDAD_FAST_ARCH
