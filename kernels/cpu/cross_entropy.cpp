// Softmax cross-entropy of one row, in fp32, compiled once for each instruction set: the row is read once
// and, if a gradient is wanted, written once; in between it stays in the cache.

#include "cross_entropy.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace edad_fast::EDAD_FAST_ARCH {
namespace {

constexpr std::size_t LANES = 16;
// Elements whose sum is taken in fp32 before it goes into an fp64 one.
constexpr std::size_t BLOCK = 64 * LANES;

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef std::uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef std::uint16_t Halves __attribute__((vector_size(2 * LANES)));

constexpr float LOWEST = -std::numeric_limits<float>::infinity();

std::size_t padded(std::size_t size) { return (size + LANES - 1) / LANES * LANES; }

template <class T, class Element>
T load(const Element* data, std::size_t count) {  // the lanes behind `count` are 0
  T x{};
  if (count == LANES) {
    std::memcpy(&x, data, sizeof x);
  } else {
    std::memcpy(&x, data, count * sizeof *data);
  }
  return x;
}

template <class T, class Element>
void store(T x, Element* data, std::size_t count) {
  if (count == LANES) {
    std::memcpy(data, &x, sizeof x);
  } else {
    std::memcpy(data, &x, count * sizeof *data);
  }
}

Floats widened(Halves bits) { return std::bit_cast<Floats>(__builtin_convertvector(bits, Words) << 16); }

Halves rounded(Floats x) {  // to nearest, ties to even; NaN stays one
  const Words bits = std::bit_cast<Words>(x);
  const Words plain = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  const Words nan = (bits >> 16) | 0x40U;
  return __builtin_convertvector((bits & 0x7FFFFFFFU) > 0x7F800000U ? nan : plain, Halves);
}

// exp(x) for x <= 0 to 2 units in the last place, 0 where it would be subnormal. NaN stays one.
Floats exponential(Floats x) {
  constexpr float SMALLEST = -87.33F;
  // Adding it leaves the nearest integer in the low bits.
  constexpr float SHIFT = 0x1.8p23F;
  const Floats bounded = x < SMALLEST ? Floats{} + SMALLEST : x;
  const Floats shifted = bounded * 1.44269504F + SHIFT;
  const Floats n = shifted - SHIFT;
  // log 2 in two parts: the product with the first is exact.
  const Floats r = bounded - n * 0.693359375F - n * -2.12194440e-4F;
  Floats sum = r * (1.0F / 5040) + 1.0F / 720;
  sum = sum * r + 1.0F / 120;
  sum = sum * r + 1.0F / 24;
  sum = sum * r + 1.0F / 6;
  sum = sum * r + 0.5F;
  sum = sum * r + 1.0F;
  sum = sum * r + 1.0F;
  const Words power = (std::bit_cast<Words>(shifted) - std::bit_cast<std::uint32_t>(SHIFT) + 127U) << 23;
  const Floats result = sum * std::bit_cast<Floats>(power);
  return x < SMALLEST ? Floats{} : result;
}

double sum_of(Floats x) {
  double sum = 0;
  for (std::size_t i = 0; i < LANES; ++i) sum += static_cast<double>(x[i]);
  return sum;
}

}  // namespace

double cross_entropy_row(void* logits, std::int64_t label, const RowOptions& options) {
  const std::size_t classes = options.classes, size = padded(classes);
  thread_local std::vector<float> row;
  row.resize(size);

  // Logits with their bias; lanes behind the last class are -inf.
  Floats highest = Floats{} + LOWEST;
  double plain = 0;
  for (std::size_t first = 0; first < size; first += BLOCK) {
    Floats sums{};
    for (std::size_t i = first; i < std::min(first + BLOCK, size); i += LANES) {
      const std::size_t count = std::min(LANES, classes - i);
      Floats x = options.bf16 ? widened(load<Halves>(static_cast<std::uint16_t*>(logits) + i, count))
                              : load<Floats>(static_cast<float*>(logits) + i, count);
      if (options.bias) x += load<Floats>(options.bias + i, count);
      sums += x;  // the lanes behind the last class are 0 here
      if (count < LANES) {
        for (std::size_t lane = count; lane < LANES; ++lane) x[lane] = LOWEST;
      }
      highest = x > highest ? x : highest;
      store(x, &row[i], LANES);
    }
    plain += sum_of(sums);
  }
  float top = LOWEST;
  for (std::size_t lane = 0; lane < LANES; ++lane) top = std::max(top, highest[lane]);
  const auto target = static_cast<double>(row[static_cast<std::size_t>(label)]);

  // The label's own term is left out: beside it, near convergence, the others would be lost.
  double others = 0;
  float own = 0;
  for (std::size_t first = 0; first < size; first += BLOCK) {
    Floats sums{};
    for (std::size_t i = first; i < std::min(first + BLOCK, size); i += LANES) {
      Floats x = exponential(load<Floats>(&row[i], LANES) - top);
      store(x, &row[i], LANES);
      const std::size_t at = static_cast<std::size_t>(label) - i;  // wraps where the label is in front
      if (at < LANES) {
        own = x[at];
        x[at] = 0;
      }
      sums += x;
    }
    others += sum_of(sums);
  }
  const double sum = others + static_cast<double>(own);
  const double normaliser = static_cast<double>(top) + std::log(sum);
  const double smoothing = options.label_smoothing, uniform = smoothing / static_cast<double>(classes);
  double loss = std::log(sum) + (static_cast<double>(top) - target);
  if (smoothing > 0) loss += smoothing * target - uniform * plain;
  if (options.z_loss > 0) loss += options.z_loss * normaliser * normaliser;
  if (!options.gradient) return loss;

  const double more = 2 * options.z_loss * normaliser;
  const auto factor = static_cast<float>((1 + more) / sum);
  const auto less = static_cast<float>(uniform);
  const auto of_label =
      static_cast<float>((more * static_cast<double>(own) - others) / sum + smoothing - uniform);
  for (std::size_t i = 0; i < size; i += LANES) {
    Floats x = load<Floats>(&row[i], LANES) * factor - less;
    const std::size_t count = std::min(LANES, classes - i), at = static_cast<std::size_t>(label) - i;
    if (at < LANES) x[at] = of_label;
    if (options.bf16) {
      store(rounded(x), static_cast<std::uint16_t*>(logits) + i, count);
    } else {
      store(x, static_cast<float*>(logits) + i, count);
    }
  }
  return loss;
}

void column_sums(const void* x, std::size_t rows, std::size_t step, std::size_t count, bool bf16,
                 float* sums) {
  std::fill(sums, sums + count, 0.0F);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t i = 0; i < count; i += LANES) {
      const std::size_t lanes = std::min(LANES, count - i), at = row * step + i;
      const Floats values = bf16 ? widened(load<Halves>(static_cast<const std::uint16_t*>(x) + at, lanes))
                                 : load<Floats>(static_cast<const float*>(x) + at, lanes);
      store(load<Floats>(sums + i, lanes) + values, sums + i, lanes);
    }
  }
}

}  // namespace edad_fast::EDAD_FAST_ARCH
