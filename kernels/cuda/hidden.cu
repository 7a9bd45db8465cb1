// The hidden-state loss for bf16 and fp16 on tensor cores (sm_80 and later).
//
// Three products by one kernel, a bounded number of rows at a time: the difference D = H W^T + b - T, then D
// W and D^T H, the gradients of states and weight. D is summed in fp32 and squared before it goes to memory,
// as one bf16 part; for fp16 inputs, whose range D may leave, as two, and the other factors are then two
// parts too. The weight's gradient is summed in fp32 in parts of fixed extent, nothing is added by atomics:
// equal inputs give equal bits.

#include <cstdint>

#include "hidden.cuh"
#include "product.cuh"

namespace {

using namespace edad_fast;

static_assert(TILE == HIDDEN_TILE);

__device__ __forceinline__ int steps_of(int terms) { return (terms + DEPTH - 1) / DEPTH; }

// D, its squares' sums and its columns' sums. Blocks: tiles of teacher_width, tiles of rows, layers.
template <class E>
struct Residual {
  using Arguments = HiddenArguments;
  using Left = E;
  using Right = E;
  static constexpr bool LEFT_TURNED = false, RIGHT_TURNED = false;
  static constexpr int COLUMNS = TILE;

  const HiddenArguments& x;
  int first, end, row, column, layer, steps;

  __device__ Residual(const HiddenArguments& arguments, int start, int stop)
      : x(arguments),
        first(start),
        end(stop),
        row(start + static_cast<int>(blockIdx.y) * TILE),
        column(static_cast<int>(blockIdx.x) * COLUMNS),
        layer(static_cast<int>(blockIdx.z)),
        steps(steps_of(x.width)) {}

  __device__ __forceinline__ void sources(int step, Source& a, Source& b) const {
    a = {x.student[layer], x.student_row, row, end, step * DEPTH, x.width};
    b = {x.weight[layer], x.weight_row, column, x.teacher_width, step * DEPTH, x.width};
  }

  // Eight elements of the teacher from column `at` of row n on, as they lie in memory; all are inside.
  __device__ __forceinline__ void fetch(uint4 (&raw)[2], std::int64_t n, int at) const {
    const std::int64_t from = n * x.teacher_row + at;
    if (x.teacher_wide) {
      const auto* const source =
          reinterpret_cast<const uint4*>(static_cast<const float*>(x.teacher[layer]) + from);
      raw[0] = source[0];
      raw[1] = source[1];
    } else {
      raw[0] = *reinterpret_cast<const uint4*>(static_cast<const E*>(x.teacher[layer]) + from);
    }
  }

  __device__ __forceinline__ void values_of(float (&values)[8], const uint4 (&raw)[2]) const {
    const std::uint32_t words[8] = {raw[0].x, raw[0].y, raw[0].z, raw[0].w,
                                    raw[1].x, raw[1].y, raw[1].z, raw[1].w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 pair = unpacked<E>(words[i / 2]);
      values[i] = x.teacher_wide ? __uint_as_float(words[i]) : i % 2 ? pair.y : pair.x;
    }
  }

  // The same one by one, 0 beyond the width.
  __device__ __forceinline__ void fetch_singly(float (&values)[8], std::int64_t n, int at) const {
    const std::int64_t from = n * x.teacher_row + at;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      values[i] = 0.0F;
      if (at + i >= x.teacher_width) continue;
      values[i] = x.teacher_wide ? static_cast<const float*>(x.teacher[layer])[from + i]
                                 : static_cast<float>(static_cast<const E*>(x.teacher[layer])[from + i]);
    }
  }

  __device__ __forceinline__ void store(const float (&values)[8], int n, int at) const {
    const auto part = static_cast<std::int64_t>(x.layers) * x.chunk * x.residual_row;
    Bf16* const to = static_cast<Bf16*>(x.residual) +
                     (static_cast<std::int64_t>(layer) * x.chunk + n - first) * x.residual_row + at;
    std::uint32_t pairs[PARTS<E>][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      pairs[0][i] = packed<Bf16>(values[i * 2], values[i * 2 + 1]);
      if constexpr (PARTS<E> == 2) pairs[1][i] = rest(values[i * 2], values[i * 2 + 1]);
    }
#pragma unroll
    for (int i = 0; i < PARTS<E>; ++i) {
      *reinterpret_cast<uint4*>(to + i * part) =
          make_uint4(pairs[i][0], pairs[i][1], pairs[i][2], pairs[i][3]);
    }
  }

  __device__ __forceinline__ void begin(Results<COLUMNS>&, int, int) const {}

  __device__ __forceinline__ void finish(Results<COLUMNS>& results, int warp_row, int warp_column) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int tile = static_cast<int>(blockIdx.y) + first / TILE, tiles = (x.rows + TILE - 1) / TILE;
    float total = 0.0F;
#pragma unroll
    for (int group = 0; group < 2; ++group) {
      const int at = column + warp_column + column_of<false>(group * 4, lane % 4);
      const int inside = x.teacher_width - at;  // of eight adjacent columns
      float columns[8] = {}, bias[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) bias[i] = x.bias[layer] && i < inside ? x.bias[layer][at + i] : 0.0F;
      const auto row_of = [&](int i) { return row + warp_row + i * 8 + lane / 4; };
      const bool whole = x.teacher_whole && inside >= 8;
      uint4 raw[8][2] = {};
#pragma unroll
      for (int i = 0; i < 8; ++i) {  // all loads are under way before the first is waited for
        if (whole && row_of(i) < end) fetch(raw[i], row_of(i), at);
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const int n = row_of(j);
        if (n >= end) continue;
        float values[8];
        if (whole) {
          values_of(values, raw[j]);
        } else {
          fetch_singly(values, n, at);
        }
        const bool counts = !x.valid || x.valid[n];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float value =
              results.value[j / 2][group * 4 + i / 2][j % 2 * 2 + i % 2] + bias[i] - values[i];
          values[i] = counts && i < inside ? value : 0.0F;
          columns[i] += values[i];
          total += values[i] * values[i];
        }
        if (x.residual && inside > 0) store(values, n, at);
      }
      if (!x.column_sums) continue;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2)
          columns[i] += __shfl_xor_sync(0xFFFFFFFFU, columns[i], offset);
        const std::int64_t sum = (static_cast<std::int64_t>(layer) * tiles + tile) * 2 + warp / 2;
        if (lane < 4 && i < inside) x.column_sums[sum * x.teacher_width + at + i] = columns[i];
      }
    }
    __shared__ float warp_sums[THREADS / 32];
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) total += __shfl_xor_sync(0xFFFFFFFFU, total, offset);
    if (lane == 0) warp_sums[warp] = total;
    __syncthreads();
    if (threadIdx.x == 0) {
      float sum = 0.0F;
      for (int i = 0; i < THREADS / 32; ++i) sum += warp_sums[i];
      x.sums[(static_cast<std::int64_t>(layer) * tiles + tile) * gridDim.x + blockIdx.x] = sum;
    }
  }
};

// Part `part` of D of a layer.
__device__ __forceinline__ const Bf16* residual_of(const HiddenArguments& x, int part, int layer) {
  return static_cast<const Bf16*>(x.residual) +
         (static_cast<std::int64_t>(part) * x.layers + layer) * x.chunk * x.residual_row;
}

// D W, small parts first. Blocks: tiles of width, tiles of rows, layers.
template <class E, int WIDE>
struct StateGradient {
  using Arguments = HiddenArguments;
  using Left = Bf16;
  using Right = E;
  static constexpr bool LEFT_TURNED = false, RIGHT_TURNED = true;
  static constexpr int COLUMNS = WIDE;

  const HiddenArguments& x;
  int first, count, row, column, layer, steps_of_part, steps;

  __device__ StateGradient(const HiddenArguments& arguments, int start, int stop)
      : x(arguments),
        first(start),
        count(stop - start),
        row(static_cast<int>(blockIdx.y) * TILE),
        column(static_cast<int>(blockIdx.x) * COLUMNS),
        layer(static_cast<int>(blockIdx.z)),
        steps_of_part(steps_of(x.teacher_width)),
        steps(PARTS<E> * steps_of_part) {}

  __device__ __forceinline__ void sources(int step, Source& a, Source& b) const {
    const int term = step % steps_of_part * DEPTH;
    const void* const left = residual_of(x, PARTS<E> - 1 - step / steps_of_part, layer);
    a = {left, x.residual_row, row, count, term, x.teacher_width};
    b = {x.weight[layer], x.weight_row, term, x.teacher_width, column, x.width};
  }

  __device__ __forceinline__ void begin(Results<COLUMNS>&, int, int) const {}

  __device__ __forceinline__ void finish(Results<COLUMNS>& results, int warp_row, int warp_column) const {
    const std::int64_t start = layer * x.gradient_layer + first * x.gradient_row;
    results.each_pair(row + warp_row, column + warp_column, [&](int n, int at, float low, float high) {
      if (n >= count || at >= x.width) return;
      const std::int64_t to = start + n * x.gradient_row + at;
      const bool both = at + 1 < x.width;
      if (x.gradient_wide) {
        float* const target = static_cast<float*>(x.gradient) + to;
        target[0] = low;
        if (both) target[1] = high;
        return;
      }
      Bf16* const target = static_cast<Bf16*>(x.gradient) + to;
      if (both && reinterpret_cast<std::uintptr_t>(target) % 4 == 0) {
        *reinterpret_cast<std::uint32_t*>(target) = packed<Bf16>(low, high);
      } else {
        target[0] = static_cast<Bf16>(low);
        if (both) target[1] = static_cast<Bf16>(high);
      }
    });
  }
};

// A part of D^T H over the rows of all layers that share a weight, small parts of D first; it goes on from
// the sums that earlier rows left. Blocks: tiles of width, tiles of teacher_width, weights x parts.
template <class E, int WIDE>
struct WeightGradient {
  using Arguments = HiddenArguments;
  using Left = Bf16;
  using Right = E;
  static constexpr bool LEFT_TURNED = true, RIGHT_TURNED = true;
  static constexpr int COLUMNS = WIDE;

  const HiddenArguments& x;
  int first, end, row, column, layer, layers, steps_of_layer, skipped, steps;

  __device__ WeightGradient(const HiddenArguments& arguments, int start, int stop)
      : x(arguments),
        first(start),
        end(stop),
        row(static_cast<int>(blockIdx.y) * TILE),
        column(static_cast<int>(blockIdx.x) * COLUMNS),
        layers(x.layers / x.weights),
        steps_of_layer(steps_of(stop - start)) {
    const int which = static_cast<int>(blockIdx.z) / x.parts, part = static_cast<int>(blockIdx.z) % x.parts;
    const std::int64_t all = static_cast<std::int64_t>(PARTS<E>) * layers * steps_of_layer;
    layer = which * layers;
    skipped = static_cast<int>(part * all / x.parts);
    steps = static_cast<int>((part + 1) * all / x.parts) - skipped;
  }

  __device__ __forceinline__ void sources(int step, Source& a, Source& b) const {
    const int term = (skipped + step) % steps_of_layer * DEPTH, over = (skipped + step) / steps_of_layer;
    const int at = layer + over % layers;
    const void* const left = residual_of(x, PARTS<E> - 1 - over / layers, at);
    a = {left, x.residual_row, term, end - first, row, x.teacher_width};
    b = {x.student[at], x.student_row, first + term, end, column, x.width};
  }

  // use(two adjacent results, where they lie, whether both are inside) for all that are.
  template <class Use>
  __device__ __forceinline__ void for_all(Results<COLUMNS>& results, int warp_row, int warp_column,
                                          Use use) const {
    float* const start = x.weight_parts + static_cast<std::int64_t>(blockIdx.z) * x.teacher_width * x.width;
    results.each_pair(row + warp_row, column + warp_column, [&](int n, int at, float& low, float& high) {
      if (n >= x.teacher_width || at >= x.width) return;
      use(low, high, start + static_cast<std::int64_t>(n) * x.width + at, at + 1 < x.width);
    });
  }

  __device__ __forceinline__ void begin(Results<COLUMNS>& results, int warp_row, int warp_column) const {
    if (!first) return;
    for_all(results, warp_row, warp_column, [&](float& low, float& high, const float* from, bool both) {
      if (x.width % 2 == 0) {
        const float2 pair = *reinterpret_cast<const float2*>(from);
        low = pair.x;
        high = pair.y;
      } else {
        low = from[0];
        if (both) high = from[1];
      }
    });
  }

  __device__ __forceinline__ void finish(Results<COLUMNS>& results, int warp_row, int warp_column) const {
    for_all(results, warp_row, warp_column, [&](float low, float high, float* to, bool both) {
      if (x.width % 2 == 0) {
        *reinterpret_cast<float2*>(to) = make_float2(low, high);
      } else {
        to[0] = low;
        if (both) to[1] = high;
      }
    });
  }
};

int tiles_of(int size, int tile) { return (size + tile - 1) / tile; }

// Columns of a tile of the gradients, those that waste fewer: 312 are two tiles of 160, 384 three of 128.
int gradient_columns(int width) {
  return tiles_of(width, 160) * 160 < tiles_of(width, TILE) * TILE ? 160 : TILE;
}

template <class Job>
int run(const HiddenArguments& x, int columns, int rows, int others, int first, int end, void* stream) {
  const dim3 grid(static_cast<unsigned>(tiles_of(columns, Job::COLUMNS)),
                  static_cast<unsigned>(tiles_of(rows, TILE)), static_cast<unsigned>(others));
  return launch_product<Job>(x, grid, first, end, stream);
}

template <class E, int WIDE>
int gradients(const HiddenArguments& x, int first, int end, void* stream) {
  int error = 0;
  if (x.gradient) {
    error = run<StateGradient<E, WIDE>>(x, x.width, end - first, x.layers, first, end, stream);
  }
  if (x.weight_parts && !error) {
    error =
        run<WeightGradient<E, WIDE>>(x, x.width, x.teacher_width, x.weights * x.parts, first, end, stream);
  }
  return error;
}

template <class E>
int all_rows(const HiddenArguments& x, void* stream) {
  const bool wide = gradient_columns(x.width) == 160;
  for (int first = 0; first < x.rows; first += x.chunk) {
    const int end = min(first + x.chunk, x.rows);
    int error = run<Residual<E>>(x, x.teacher_width, end - first, x.layers, first, end, stream);
    if (!error)
      error = wide ? gradients<E, 160>(x, first, end, stream) : gradients<E, TILE>(x, first, end, stream);
    if (error) return error;
  }
  return 0;
}

}  // namespace

extern "C" {

int edad_fast_cuda_hidden_columns(int width) { return gradient_columns(width); }

// 0, or a cudaError_t.
int edad_fast_cuda_hidden(const HiddenArguments* arguments, int device, void* stream) {
  if (const int error = use_device(device)) return error;
  return arguments->half ? all_rows<Half>(*arguments, stream) : all_rows<Bf16>(*arguments, stream);
}
}
