// Rows of a head to panels and back: which rows count, conversion, transposition.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "products.hpp"

namespace edad_fast::EDAD_FAST_ARCH {
namespace {

typedef float Floats16 __attribute__((vector_size(64)));
typedef std::uint32_t Words16 __attribute__((vector_size(64)));
typedef std::uint16_t Halves16 __attribute__((vector_size(32)));

// The rows that count, in order: `index` (null: all), and what `ids` says of each.
struct Kept {
  const std::int32_t* index;
  const std::int32_t* ids;
  std::size_t count;

  std::size_t row(std::size_t i) const { return index ? static_cast<std::size_t>(index[i]) : i; }
};

// `count` < GROUP elements; the others are 0. Nothing else is read or written.
template <class V, class T>
V load_some(const T* source, std::size_t count) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  const auto mask = static_cast<std::uint16_t>((1U << count) - 1U);
  if constexpr (sizeof(T) == 4) {
    return reinterpret_cast<V>(_mm512_maskz_loadu_epi32(mask, source));
  } else {
    return reinterpret_cast<V>(_mm256_maskz_loadu_epi16(mask, source));
  }
#else
  T values[GROUP] = {};
  for (std::size_t i = 0; i < count; ++i) values[i] = source[i];
  return loaded<T, V>(values);
#endif
}

template <class V, class T>
void store_some(const V& value, T* target, std::size_t count) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  const auto mask = static_cast<std::uint16_t>((1U << count) - 1U);
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_epi32(target, mask, reinterpret_cast<__m512i>(value));
  } else {
    _mm256_mask_storeu_epi16(target, mask, reinterpret_cast<__m256i>(value));
  }
#else
  for (std::size_t i = 0; i < count; ++i) target[i] = value[i];
#endif
}

template <class V, class T>
[[gnu::always_inline]] inline V load_group(const T* source, std::size_t count) {
  return count >= GROUP ? loaded<T, V>(source) : load_some<V>(source, count);
}

Words16 wide(Halves16 x) { return __builtin_convertvector(x, Words16); }

Floats16 widened(Halves16 bits) { return reinterpret_cast<Floats16>(wide(bits) << 16); }

Floats16 half(Halves16 bits) {  // of fp16; the product shifts the exponent, subnormal numbers included
  const Words16 x = wide(bits);
  const auto magnitude = reinterpret_cast<Floats16>((x & 0x7FFFU) << 13) * 0x1p112F;
  const Words16 special = reinterpret_cast<Words16>((x & 0x7C00U) == 0x7C00U) & 0x7F800000U;
  return reinterpret_cast<Floats16>(reinterpret_cast<Words16>(magnitude) | special | (x & 0x8000U) << 16);
}

Words16 rounded(Floats16 value) {  // to bf16, to nearest even
  const auto bits = reinterpret_cast<Words16>(value);
  const Words16 up = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  return (bits & 0x7FFFFFFFU) > 0x7F800000U ? (bits >> 16) | 0x40U : up;
}

// Calls with group after group of a row of the tensor: (index of the first element, how many).
template <class Call>
[[gnu::always_inline]] inline void for_groups(std::size_t width, const Call& call) {
  for (std::size_t i = 0; i < width; i += GROUP) call(i, std::min(GROUP, width - i));
}

template <class T>
T* place(Panels<T> panels, std::size_t row, std::size_t column) {
  return panels.at(column / PANEL, row) + column % PANEL;
}

template <Dtype DTYPE>
Floats16 load_floats(const void* data, std::ptrdiff_t offset, std::size_t count) {
  if constexpr (DTYPE == Dtype::fp32) {
    return load_group<Floats16>(static_cast<const float*>(data) + offset, count);
  } else {
    const auto bits = load_group<Halves16>(static_cast<const std::uint16_t*>(data) + offset, count);
    return DTYPE == Dtype::bf16 ? widened(bits) : half(bits);
  }
}

template <Dtype DTYPE, class T>
void load_as(Rows rows, const Kept& kept, std::size_t first, std::size_t count, std::size_t width,
             Panels<T> target) {
  for (std::size_t row = 0; row < count; ++row) {
    const auto offset = static_cast<std::ptrdiff_t>(kept.row(first + row)) * rows.stride;
    for_groups(width, [&](std::size_t i, std::size_t size) {
      const Floats16 x = load_floats<DTYPE>(rows.data, offset + static_cast<std::ptrdiff_t>(i), size);
      T* to = place(target, row, i);
      for (std::size_t lane = 0; lane < GROUP; ++lane) to[lane] = x[lane];
    });
  }
}

// Kept rows [first, first + count) as fp32 or fp64.
template <class T>
void load(Rows rows, Dtype dtype, const Kept& kept, std::size_t first, std::size_t count, std::size_t width,
          Panels<T> target) {
  if (dtype == Dtype::fp32) load_as<Dtype::fp32>(rows, kept, first, count, width, target);
  if (dtype == Dtype::bf16) load_as<Dtype::bf16>(rows, kept, first, count, width, target);
  if (dtype == Dtype::fp16) load_as<Dtype::fp16>(rows, kept, first, count, width, target);
}

// bf16 rows as they are: pairs of neighbours in a row.
void load_pairs(Rows rows, const Kept& kept, std::size_t first, std::size_t count, std::size_t width,
                Panels<std::uint32_t> target) {
  for (std::size_t row = 0; row < count; ++row) {
    const auto* source = static_cast<const std::uint16_t*>(rows.data) +
                         static_cast<std::ptrdiff_t>(kept.row(first + row)) * rows.stride;
    for_groups(width, [&](std::size_t i, std::size_t size) {
      const auto x = load_group<Halves16>(source + i, size);
      std::memcpy(place(target, row, i / 2), &x, sizeof x);
    });
  }
}

// bf16 rows two by two: pairs of the same element of both, [count / 2 rounded up, width].
[[maybe_unused]] void load_row_pairs(Rows rows, const Kept& kept, std::size_t first, std::size_t count,
                                     std::size_t width, Panels<std::uint32_t> target) {
  for (std::size_t row = 0; row < count; row += 2) {
    const auto* data = static_cast<const std::uint16_t*>(rows.data);
    const auto* upper = data + static_cast<std::ptrdiff_t>(kept.row(first + row)) * rows.stride;
    const auto* lower = row + 1 < count
                            ? data + static_cast<std::ptrdiff_t>(kept.row(first + row + 1)) * rows.stride
                            : nullptr;
    for_groups(width, [&](std::size_t i, std::size_t size) {
      Words16 x = wide(load_group<Halves16>(upper + i, size));
      if (lower) x |= wide(load_group<Halves16>(lower + i, size)) << 16;
      std::memcpy(place(target, row / 2, i), &x, sizeof x);
    });
  }
}

// Exchanges the elements of two rows that lie on the wrong side of the diagonal of 2 x 2 blocks of STEP.
template <int STEP>
void exchange(Words16& upper, Words16& lower) {
  Words16 first, second;
  for (int lane = 0; lane < 16; ++lane) {
    first[lane] = static_cast<std::uint32_t>((lane & STEP) ? 16 + lane - STEP : lane);
    second[lane] = static_cast<std::uint32_t>((lane & STEP) ? 16 + lane : lane + STEP);
  }
#ifdef __clang__
  Words16 x, y;
  for (int lane = 0; lane < 16; ++lane) {
    x[lane] = first[lane] < 16 ? upper[first[lane]] : lower[first[lane] - 16];
    y[lane] = second[lane] < 16 ? upper[second[lane]] : lower[second[lane] - 16];
  }
#else
  const Words16 x = __builtin_shuffle(upper, lower, first), y = __builtin_shuffle(upper, lower, second);
#endif
  upper = x;
  lower = y;
}

template <int STEP>
void exchange_all(Words16 (&rows)[16]) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if (!(i & STEP)) exchange<STEP>(rows[i], rows[i + STEP]);
  }
}

// [rows, columns] to [columns, rows] of 32-bit elements, in blocks of GROUP x GROUP: the memory of both must
// hold whole ones.
template <class T>
void transpose(Panels<T> source, std::size_t rows, std::size_t columns, Panels<T> target) {
  static_assert(sizeof(T) == 4);
  for (std::size_t row = 0; row < rows; row += GROUP) {
    for (std::size_t column = 0; column < columns; column += GROUP) {
      const T* from = place(source, row, column);
      T* to = place(target, column, row);
      Words16 block[GROUP];
#pragma GCC unroll 16
      for (std::size_t i = 0; i < GROUP; ++i) std::memcpy(&block[i], from + i * PANEL, sizeof block[i]);
      exchange_all<8>(block);
      exchange_all<4>(block);
      exchange_all<2>(block);
      exchange_all<1>(block);
#pragma GCC unroll 16
      for (std::size_t i = 0; i < GROUP; ++i) std::memcpy(to + i * PANEL, &block[i], sizeof block[i]);
    }
  }
}

// Writes rows [0, count) of the panels, multiplied by `scale`, to kept rows [first, first + count).
template <class T>
void store(Panels<T> values, const Kept& kept, std::size_t first, std::size_t count, std::size_t width,
           T scale, Dtype dtype, void* target, std::ptrdiff_t stride) {
  for (std::size_t row = 0; row < count; ++row) {
    const auto offset = static_cast<std::ptrdiff_t>(kept.row(first + row)) * stride;
    for_groups(width, [&](std::size_t i, std::size_t size) {
      const T* from = place(values, row, i);
      Floats16 x;
      for (std::size_t lane = 0; lane < GROUP; ++lane) x[lane] = static_cast<float>(from[lane] * scale);
      if (dtype == Dtype::bf16) {
        const auto bits = __builtin_convertvector(rounded(x), Halves16);
        store_some(bits, static_cast<std::uint16_t*>(target) + offset + i, size);
      } else {
        store_some(x, static_cast<float*>(target) + offset + i, size);
      }
    });
  }
}

// Zeros in the rows that do not count.
void clear_others(const Kept& kept, std::size_t length, std::size_t width, Dtype dtype, void* target,
                  std::ptrdiff_t stride) {
  const std::size_t size = dtype == Dtype::bf16 ? 2 : 4;
  for (std::size_t row = 0, next = 0; row < length; ++row) {
    if (next < kept.count && kept.row(next) == row) {
      ++next;
    } else {
      std::memset(static_cast<char*>(target) + static_cast<std::ptrdiff_t>(row * size) * stride, 0,
                  width * size);
    }
  }
}

}  // namespace
}  // namespace edad_fast::EDAD_FAST_ARCH
