// What the losses are computed with on CPUs. Compiled once for each instruction set; EDAD_FAST_ARCH names its
// namespace.
//
// Everything is one kind of product, C = beta C + alpha A B over tiles of TILE_ROWS x TILE_COLUMNS. Where the
// processor multiplies bf16 pairs, products of bf16 inputs take two terms at a time: they are exact up to the
// fp32 sum either way.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "attention.hpp"

namespace edad_fast::EDAD_FAST_ARCH {
namespace {

constexpr std::size_t TILE_ROWS = 8;
constexpr std::size_t TILE_COLUMNS = 32;

typedef float Floats __attribute__((vector_size(64)));
typedef std::int32_t Words __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(64)));

std::size_t padded(std::size_t size, std::size_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

template <class T>
class Buffer {  // 64-byte aligned; grows, never shrinks
 public:
  T* get(std::size_t size) {
    if (storage_.size() * sizeof(Line) < size * sizeof(T))
      storage_.resize(size * sizeof(T) / sizeof(Line) + 1);
    return reinterpret_cast<T*>(storage_.data());
  }

 private:
  struct alignas(64) Line {
    unsigned char bytes[64];
  };
  std::vector<Line> storage_;
};

struct Single {  // fp32 terms
  using Element = float;
  using Vector = Floats;
  using Sum = float;
  static Vector multiply_add(Element a, const Element* b, Vector c) {
    Vector x;
    std::memcpy(&x, b, sizeof x);
    return c + a * x;
  }
};

struct Double {  // fp64 terms
  using Element = double;
  using Vector = Doubles;
  using Sum = double;
  static Vector multiply_add(Element a, const Element* b, Vector c) {
    Vector x;
    std::memcpy(&x, b, sizeof x);
    return c + a * x;
  }
};

#ifdef __AVX512BF16__
struct Pair {  // two bf16 terms in 32 bits
  using Element = std::uint32_t;
  using Vector = __m512;
  using Sum = float;
  static Vector multiply_add(Element a, const Element* b, Vector c) {
    const __m512i x = _mm512_loadu_si512(b);
    const __m512i y = _mm512_set1_epi32(static_cast<int>(a));
    return _mm512_dpbf16_ps(c, std::bit_cast<__m512bh>(y), std::bit_cast<__m512bh>(x));
  }
};
constexpr bool HAS_PAIRS = true;
#else
using Pair = Single;  // never used
constexpr bool HAS_PAIRS = false;
#endif

template <class Terms>
struct Left {  // element (row, k) at data[row * row_step + k * k_step]
  const typename Terms::Element* data;
  std::size_t row_step, k_step;
};

// C[rows x columns] = beta C + alpha A B; rows and columns are multiples of a tile.
template <class Terms, class Sum = typename Terms::Sum>
void multiply(Left<Terms> a, const typename Terms::Element* b, std::size_t b_step, std::size_t terms, Sum* c,
              std::size_t c_step, std::size_t rows, std::size_t columns, Sum alpha, bool add) {
  using Vector = typename Terms::Vector;
  constexpr std::size_t lanes = sizeof(Vector) / sizeof(Sum);
  constexpr std::size_t vectors = 32 / lanes > 2 ? 2 : 32 / lanes;
  for (std::size_t column = 0; column < columns; column += vectors * lanes) {
    for (std::size_t row = 0; row < rows; row += TILE_ROWS) {
      Vector sums[TILE_ROWS][vectors] = {};
      const auto* left = a.data + row * a.row_step;
      const auto* right = b + column;
      for (std::size_t k = 0; k < terms; ++k) {
#pragma GCC unroll 8
        for (std::size_t r = 0; r < TILE_ROWS; ++r) {
#pragma GCC unroll 2
          for (std::size_t v = 0; v < vectors; ++v) {
            sums[r][v] = Terms::multiply_add(left[r * a.row_step + k * a.k_step],
                                             right + k * b_step + v * lanes, sums[r][v]);
          }
        }
      }
      for (std::size_t r = 0; r < TILE_ROWS; ++r) {
        for (std::size_t v = 0; v < vectors; ++v) {
          Sum* target = c + (row + r) * c_step + column + v * lanes;
          Vector value = alpha * sums[r][v];
          if (add) {
            Vector before;
            std::memcpy(&before, target, sizeof before);
            value += before;
          }
          std::memcpy(target, &value, sizeof value);
        }
      }
    }
  }
}

float widened(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

float half(std::uint16_t bits) {  // of fp16; the product shifts the exponent, subnormal numbers included
  const float magnitude = std::bit_cast<float>(static_cast<std::uint32_t>(bits & 0x7FFFU) << 13) * 0x1p112F;
  const std::uint32_t special = (bits & 0x7C00U) == 0x7C00U ? 0x7F800000U : 0U;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | special |
                              static_cast<std::uint32_t>(bits & 0x8000U) << 16);
}

std::uint16_t rounded(float value) {  // to bf16, to nearest even
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t up = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  return static_cast<std::uint16_t>((bits & 0x7FFFFFFFU) > 0x7F800000U ? (bits >> 16) | 0x40U : up);
}

bool kept(const std::int32_t* segments, std::size_t row) { return !segments || segments[row] > 0; }

// Rows [first, first + count) as fp32 (or fp64) [padded rows, step]; zero rows where `mask` has no token.
template <class T>
void unpack(Rows rows, Dtype dtype, std::size_t first, std::size_t count, std::size_t width,
            const std::int32_t* mask, T* target, std::size_t step, std::size_t padded_width) {
  for (std::size_t row = 0; row < padded(count, TILE_ROWS); ++row, target += step) {
    std::size_t filled = 0;
    if (row < count && kept(mask, first + row)) {
      filled = width;
      const auto offset = static_cast<std::ptrdiff_t>(first + row) * rows.stride;
      if (dtype == Dtype::bf16) {
        const auto* source = static_cast<const std::uint16_t*>(rows.data) + offset;
        for (std::size_t i = 0; i < width; ++i) target[i] = widened(source[i]);
      } else if (dtype == Dtype::fp16) {
        const auto* source = static_cast<const std::uint16_t*>(rows.data) + offset;
        for (std::size_t i = 0; i < width; ++i) target[i] = half(source[i]);
      } else {
        const auto* source = static_cast<const float*>(rows.data) + offset;
        for (std::size_t i = 0; i < width; ++i) target[i] = source[i];
      }
    }
    std::fill(target + filled, target + padded_width, T{0});
  }
}

// bf16 rows as they are, [padded rows, step], zero-filled.
void copy(Rows rows, std::size_t first, std::size_t count, std::size_t width, const std::int32_t* mask,
          std::uint16_t* target, std::size_t step, std::size_t padded_width) {
  for (std::size_t row = 0; row < padded(count, TILE_ROWS); ++row, target += step) {
    std::size_t filled = 0;
    if (row < count && kept(mask, first + row)) {
      filled = width;
      const auto* source = static_cast<const std::uint16_t*>(rows.data) +
                           static_cast<std::ptrdiff_t>(first + row) * rows.stride;
      std::memcpy(target, source, width * sizeof *target);
    }
    std::fill(target + filled, target + padded_width, std::uint16_t{0});
  }
}

// Exchanges the elements of two rows that lie on the wrong side of the diagonal of 2 x 2 blocks of STEP.
template <int STEP>
void exchange(Words& upper, Words& lower) {
  Words first, second;
  for (int lane = 0; lane < 16; ++lane) {
    first[lane] = (lane & STEP) ? 16 + lane - STEP : lane;
    second[lane] = (lane & STEP) ? 16 + lane : lane + STEP;
  }
#ifdef __clang__
  Words x, y;
  for (int lane = 0; lane < 16; ++lane) {
    x[lane] = first[lane] < 16 ? upper[first[lane]] : lower[first[lane] - 16];
    y[lane] = second[lane] < 16 ? upper[second[lane]] : lower[second[lane] - 16];
  }
#else
  const Words x = __builtin_shuffle(upper, lower, first), y = __builtin_shuffle(upper, lower, second);
#endif
  upper = x;
  lower = y;
}

template <int STEP>
void exchange_all(Words (&rows)[16]) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if (!(i & STEP)) exchange<STEP>(rows[i], rows[i + STEP]);
  }
}

// [rows, columns] to [columns, target_step] of 32-bit elements; rows and columns are multiples of 16.
void transpose(const std::uint32_t* source, std::size_t step, std::size_t rows, std::size_t columns,
               std::uint32_t* target, std::size_t target_step) {
  for (std::size_t row = 0; row < rows; row += 16) {
    for (std::size_t column = 0; column < columns; column += 16) {
      Words block[16];
#pragma GCC unroll 16
      for (std::size_t i = 0; i < 16; ++i)
        std::memcpy(&block[i], source + (row + i) * step + column, sizeof(Words));
      exchange_all<8>(block);
      exchange_all<4>(block);
      exchange_all<2>(block);
      exchange_all<1>(block);
#pragma GCC unroll 16
      for (std::size_t i = 0; i < 16; ++i) {
        std::memcpy(target + (column + i) * target_step + row, &block[i], sizeof(Words));
      }
    }
  }
}

template <class T>
void store(const T* values, std::size_t step, std::size_t first, std::size_t count, std::size_t width,
           Dtype dtype, void* target, std::ptrdiff_t stride) {
  for (std::size_t row = 0; row < count; ++row, values += step) {
    const auto offset = static_cast<std::ptrdiff_t>(first + row) * stride;
    if (dtype == Dtype::bf16) {
      auto* out = static_cast<std::uint16_t*>(target) + offset;
      for (std::size_t i = 0; i < width; ++i) out[i] = rounded(static_cast<float>(values[i]));
    } else {
      auto* out = static_cast<float*>(target) + offset;
      for (std::size_t i = 0; i < width; ++i) out[i] = static_cast<float>(values[i]);
    }
  }
}

// Sets the pairs of query `id` that do not count to 0 (a select: NaN times 0 would be NaN); their squared
// sum.
double keep_counted(float* scores, std::size_t length, const std::int32_t* segments, std::int32_t id,
                    bool tinybert) {
  float sums[16] = {};
  const bool all = tinybert && id <= 0;
  for (std::size_t j = 0; j < length; ++j) {
    const std::int32_t key = segments ? segments[j] : 1;
    const bool counts = key > 0 && (all || key == id);
    scores[j] = counts ? scores[j] : 0.0F;
  }
  std::size_t j = 0;
  for (; j + 16 <= length; j += 16) {
    for (std::size_t lane = 0; lane < 16; ++lane) sums[lane] += scores[j + lane] * scores[j + lane];
  }
  double total = 0;
  for (; j < length; ++j) total += static_cast<double>(scores[j]) * scores[j];
  for (const float sum : sums) total += sum;
  return total;
}

}  // namespace
}  // namespace edad_fast::EDAD_FAST_ARCH
