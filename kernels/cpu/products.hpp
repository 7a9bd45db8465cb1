// What the losses are computed with on CPUs. Compiled once for each instruction set; EDAD_FAST_ARCH names its
// namespace.
//
// Matrices lie in panels of PANEL columns, so that every step in memory is a constant. Everything is one kind
// of product, a sum of A B over tiles that fill the registers. Where the processor multiplies bf16 pairs,
// products of bf16 inputs take two terms at a time: they are exact up to the fp32 sum either way.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "ahead.hpp"
#include "attention.hpp"

namespace edad_fast::EDAD_FAST_ARCH {
namespace {

constexpr std::size_t PANEL = 32;
constexpr std::size_t GROUP = 16;  // elements that are moved at a time

// A tile is MAX_ROWS x 2 vectors: the sums, two vectors of B and an element of A fill the registers.
#if defined(__AVX512F__)
constexpr std::size_t VECTOR_BYTES = 64, MAX_ROWS = 13;
#elif defined(__AVX__)
constexpr std::size_t VECTOR_BYTES = 32, MAX_ROWS = 6;
#else
constexpr std::size_t VECTOR_BYTES = 16, MAX_ROWS = 6;
#endif

typedef float Floats __attribute__((vector_size(VECTOR_BYTES)));
typedef double Doubles __attribute__((vector_size(VECTOR_BYTES)));

constexpr std::size_t padded(std::size_t size, std::size_t multiple) {
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

template <class T>
struct Panels {  // a matrix of `rows` rows; padded in its last panel
  T* data;
  std::size_t rows;

  T* at(std::size_t panel, std::size_t row) const { return data + (panel * rows + row) * PANEL; }
  Panels<T> from(std::size_t panel) const { return {at(panel, 0), rows}; }
};

template <class T>
Panels<T> take(Buffer<T>& buffer, std::size_t rows, std::size_t columns) {
  return {buffer.get(rows * padded(columns, PANEL)), rows};
}

template <class T, class V>
V loaded(const T* source) {
  V value;
  std::memcpy(&value, source, sizeof value);
  return value;
}

template <class T, class V>
struct Plain {  // fp32 or fp64 terms
  using Element = T;
  using Sum = T;
  using Vector = V;
  using Right = V;
  static Vector multiply_add(Element a, Right b, Vector c) { return c + a * b; }
};
using Single = Plain<float, Floats>;
using Double = Plain<double, Doubles>;

#ifdef __AVX512BF16__
struct Pair {  // two bf16 terms in 32 bits
  using Element = std::uint32_t;
  using Sum = float;
  using Vector = Floats;
  using Right = __m512i;
  static Vector multiply_add(Element a, Right b, Vector c) {
    const __m512i pair = _mm512_set1_epi32(static_cast<int>(a));
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(pair), reinterpret_cast<__m512bh>(b));
  }
};
constexpr bool HAS_PAIRS = true;
#else
using Pair = Single;  // never used
constexpr bool HAS_PAIRS = false;
#endif

template <class Terms>
constexpr std::size_t LANES = sizeof(typename Terms::Vector) / sizeof(typename Terms::Sum);

template <class Terms, std::size_t ROWS, std::size_t VECTORS>
using Tile = typename Terms::Vector[ROWS][VECTORS];

// Adds `terms` terms to a tile. Term k of row r is left[r * PANEL + k], or left[k * PANEL + r] where the
// matrix on the left is read across; `next` leads to its next PANEL terms.
template <class Terms, bool ACROSS, std::size_t ROWS, std::size_t VECTORS>
[[gnu::always_inline]] inline void accumulate(Tile<Terms, ROWS, VECTORS>& sums,
                                              const typename Terms::Element* left, std::size_t next,
                                              const typename Terms::Element* right, std::size_t terms) {
  using Right = typename Terms::Right;
  for (std::size_t done = 0; done < terms; done += PANEL, left += next) {
    const std::size_t count = std::min(PANEL, terms - done);
    for (std::size_t k = 0; k < count; ++k, right += PANEL) {
      Right b[VECTORS];
#pragma GCC unroll 2
      for (std::size_t v = 0; v < VECTORS; ++v) {
        b[v] = loaded<typename Terms::Element, Right>(right + v * LANES<Terms>);
      }
#pragma GCC unroll 13
      for (std::size_t r = 0; r < ROWS; ++r) {
        const auto a = left[ACROSS ? k * PANEL + r : r * PANEL + k];
#pragma GCC unroll 2
        for (std::size_t v = 0; v < VECTORS; ++v) sums[r][v] = Terms::multiply_add(a, b[v], sums[r][v]);
      }
    }
  }
}

// One product of a sum of products; what has been summed before it is first multiplied by `scale`.
template <class Terms>
struct Part {
  Panels<const typename Terms::Element> left;  // row 0 belongs to row 0 of the result
  Panels<const typename Terms::Element> right;
  std::size_t terms;
  typename Terms::Sum scale = 1;
};

template <std::size_t ROWS = MAX_ROWS, class Call>
[[gnu::always_inline]] inline void with_rows(std::size_t rows, const Call& call) {
  if (rows == ROWS) {
    call(std::integral_constant<std::size_t, ROWS>{});
  } else if constexpr (ROWS > 1) {
    with_rows<ROWS - 1>(rows, call);
  }
}

// The sum of the parts, [rows, columns], tile by tile: finish(tile, panel, row, column) takes each. `lower`
// leaves out groups above the diagonal.
template <class Terms, bool ACROSS, std::size_t VECTORS, class Finish>
void multiply(std::initializer_list<Part<Terms>> parts, std::size_t rows, std::size_t columns, bool lower,
              const Finish& finish) {
  constexpr std::size_t step = VECTORS * LANES<Terms>;
  const std::size_t block = ACROSS ? PANEL : rows;  // rows that one panel of the left matrix holds
  for (std::size_t column = 0; column < columns; column += step) {
    const std::size_t panel = column / PANEL, inside = column % PANEL;
    for (std::size_t top = 0; top < rows; top += block) {
      const std::size_t begin = lower ? column / GROUP * GROUP : 0, end = std::min(block, rows - top);
      // Tiles of almost equal height.
      const std::size_t height = end - begin, tiles = (height + MAX_ROWS - 1) / MAX_ROWS;
      for (std::size_t tile = 0; tile < tiles; ++tile) {
        const std::size_t first = begin + height * tile / tiles;
        with_rows(begin + height * (tile + 1) / tiles - first, [&](auto constant) {
          constexpr std::size_t ROWS = decltype(constant)::value;
          Tile<Terms, ROWS, VECTORS> sums = {};
          for (const Part<Terms>& part : parts) {
            if (part.scale != 1) {
#pragma GCC unroll 13
              for (std::size_t r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
                for (std::size_t v = 0; v < VECTORS; ++v) sums[r][v] *= part.scale;
              }
            }
            const auto* left = ACROSS ? part.left.at(top / PANEL, 0) + first : part.left.at(0, first);
            accumulate<Terms, ACROSS, ROWS, VECTORS>(sums, left, PANEL * (ACROSS ? PANEL : part.left.rows),
                                                     part.right.at(panel, 0) + inside, part.terms);
          }
          finish(sums, panel, top + first, inside);
        });
      }
    }
  }
}

// C (+)= the sum of the parts.
template <class Terms, bool ACROSS, std::size_t VECTORS = 2>
void multiply_into(std::initializer_list<Part<Terms>> parts, Panels<typename Terms::Sum> c, std::size_t rows,
                   std::size_t columns, bool add, Ahead& ahead, bool lower = false) {
  using Vector = typename Terms::Vector;
  using Sum = typename Terms::Sum;
  multiply<Terms, ACROSS, VECTORS>(
      parts, rows, columns, lower, [&](auto& sums, std::size_t panel, std::size_t row, std::size_t inside) {
        constexpr std::size_t ROWS = std::extent_v<std::remove_reference_t<decltype(sums)>>;
        Sum* target = c.at(panel, row) + inside;
#pragma GCC unroll 13
        for (std::size_t r = 0; r < ROWS; ++r, target += PANEL) {
#pragma GCC unroll 2
          for (std::size_t v = 0; v < VECTORS; ++v) {
            Sum* to = target + v * LANES<Terms>;
            Vector value = sums[r][v];
            if (add) value += loaded<Sum, Vector>(to);
            std::memcpy(to, &value, sizeof value);
          }
        }
        ahead.step();
      });
}

}  // namespace
}  // namespace edad_fast::EDAD_FAST_ARCH
