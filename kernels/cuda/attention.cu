// The attention-score loss for bf16 and fp16 on tensor cores (sm_80 and later).
//
// A block takes 128 rows of a head's score map, 16 a warp, against all its columns, 64 at a time. Rows are
// queries in one half of the grid and keys in the other: each half writes one gradient, and nothing is added
// by atomics. The difference of the scores is born in registers in the layout that the second product wants
// on its left; it goes there as two bf16 parts, so that it keeps 16 bits and more, and the range of fp32:
// scores of fp16 inputs may leave that of fp16. Their right side is then two bf16 parts too. Equal inputs
// give equal bits.

#include <cstdint>

#include "attention.cuh"
#include "mma.cuh"

namespace {

using namespace edad_fast;

using Element = std::uint16_t;  // the bits of a bf16 or fp16

constexpr int WARPS = 8;
constexpr int ROWS = 16 * WARPS;
constexpr int COLUMNS = 64;
constexpr int PAD = 8;  // elements: rows of a tile start in different banks

// Elements column and column + 1 of a row, 0 beyond its width. `even`: rows start at multiples of 4 bytes.
__device__ __forceinline__ std::uint32_t pair_of(const Element* row, int column, int width, bool even) {
  if (even && column + 1 < width) return *reinterpret_cast<const std::uint32_t*>(row + column);
  const std::uint32_t low = column < width ? row[column] : 0U,
                      high = column + 1 < width ? row[column + 1] : 0U;
  return low | high << 16;
}

// This warp's 16 rows as the left side of a product.
template <int WIDTH>
__device__ __forceinline__ void load_left(std::uint32_t (&a)[WIDTH / 16][4], const Element* start,
                                          long long stride, int row, int length, int width, bool even) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int k = 0; k < WIDTH / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = row + lane / 4 + (i % 2) * 8;
      const int column = k * 16 + lane % 4 * 2 + (i / 2) * 8;
      a[k][i] = at < length ? pair_of(start + at * stride, column, width, even) : 0U;
    }
  }
}

// COLUMNS rows [first, ...) into shared memory, zero-filled. (fp16 has fewer registers left for loads at
// once.)
template <class E, int WIDTH>
__device__ __forceinline__ void load_tile(Element (*tile)[WIDTH + PAD], const Element* start,
                                          long long stride, int first, int length, int width, bool even,
                                          bool whole) {
  if (whole) {  // rows of 16-byte pieces
    for (int i = static_cast<int>(threadIdx.x); i < COLUMNS * (WIDTH / 8); i += WARPS * 32) {
      const int row = i / (WIDTH / 8), column = i % (WIDTH / 8) * 8;
      uint4 value = make_uint4(0, 0, 0, 0);
      if (first + row < length && column < width) {
        value = *reinterpret_cast<const uint4*>(start + (first + row) * stride + column);
      }
      *reinterpret_cast<uint4*>(&tile[row][column]) = value;
    }
    return;
  }
#pragma unroll 4 / PARTS < E>
  for (int i = static_cast<int>(threadIdx.x); i < COLUMNS * (WIDTH / 2); i += WARPS * 32) {
    const int row = i / (WIDTH / 2), column = i % (WIDTH / 2) * 2;
    const std::uint32_t value =
        first + row < length ? pair_of(start + (first + row) * stride, column, width, even) : 0U;
    *reinterpret_cast<std::uint32_t*>(&tile[row][column]) = value;
  }
}

__device__ __forceinline__ bool counted(int query, int key, bool tinybert) {
  return key > 0 && (query == key || (tinybert && query == 0));
}

template <class E, int S, int T>
__global__ void __launch_bounds__(WARPS * 32, 2)
    attention_kernel(const __grid_constant__ AttentionArguments arguments, int tiles) {
  __shared__ __align__(16) Element other_s[COLUMNS][S + PAD];
  __shared__ __align__(16) Element other_t[COLUMNS][T + PAD];
  __shared__ int other_ids[COLUMNS];
  __shared__ float warp_sums[WARPS];

  const AttentionArguments& x = arguments;
  const int layer = static_cast<int>(blockIdx.y);
  const bool keys = blockIdx.z == 1;
  const int tile = static_cast<int>(blockIdx.x) % tiles;
  const int head = static_cast<int>(blockIdx.x) / tiles % x.heads;
  const int sequence = static_cast<int>(blockIdx.x) / tiles / x.heads;
  const long long batch = x.cu_seqlens ? 0 : sequence;
  // Whatever cu_seqlens holds, rows lie within [0, x.length).
  const int first_row = x.cu_seqlens ? min(max(x.cu_seqlens[sequence], 0), x.length) : 0;
  const int length =
      x.cu_seqlens ? min(max(x.cu_seqlens[sequence + 1], first_row), x.length) - first_row : x.length;
  const long long start = first_row;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row = tile * ROWS + warp * 16;
  const int* const segments = x.segments ? x.segments + batch * x.length : nullptr;

  const auto place = [&](const void* data, const Strides& s) {
    return static_cast<const Element*>(data) + batch * s.batch + head * s.head + start * s.row;
  };
  // q k t u: queries and keys of student and teacher; own side and the other.
  const int own = keys ? 1 : 0, other = 1 - own;
  const Element* const source_s = place(x.student[other][layer], x.student_strides[other]);
  const Element* const source_t = place(x.teacher[other][layer], x.teacher_strides[other]);

  std::uint32_t left_s[S / 16][4], left_t[T / 16][4];
  load_left<S>(left_s, place(x.student[own][layer], x.student_strides[own]), x.student_strides[own].row, row,
               length, x.student_width, x.student_even[own]);
  load_left<T>(left_t, place(x.teacher[own][layer], x.teacher_strides[own]), x.teacher_strides[own].row, row,
               length, x.teacher_width, x.teacher_even[own]);
  int ids[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = row + lane / 4 + half * 8;
    ids[half] = at >= length ? -1 : (segments ? max(segments[at], 0) : 1);
  }
  const bool wanted = x.gradient[own] != nullptr;
  float gradient[S / 8][4] = {};
  float total = 0.0F;

  for (int first = 0; first < length && tile * ROWS < length; first += COLUMNS) {
    __syncthreads();
    load_tile<E, S>(other_s, source_s, x.student_strides[other].row, first, length, x.student_width,
                    x.student_even[other], x.student_whole[other]);
    load_tile<E, T>(other_t, source_t, x.teacher_strides[other].row, first, length, x.teacher_width,
                    x.teacher_even[other], x.teacher_whole[other]);
    if (threadIdx.x < COLUMNS) {
      const int at = first + static_cast<int>(threadIdx.x);
      other_ids[threadIdx.x] = at >= length ? -1 : (segments ? max(segments[at], 0) : 1);
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < COLUMNS / 16; ++step) {
      float difference[2][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int column = step * 16 + half * 8;
        float scores_s[4] = {}, scores_t[4] = {};
        const Element* const right_t = &other_t[column + lane / 4][lane % 4 * 2];
        const Element* const right_s = &other_s[column + lane / 4][lane % 4 * 2];
#pragma unroll
        for (int k = 0; k < T / 16; ++k) {
          multiply_add<E>(scores_t, left_t[k], *reinterpret_cast<const std::uint32_t*>(right_t + k * 16),
                          *reinterpret_cast<const std::uint32_t*>(right_t + k * 16 + 8));
        }
#pragma unroll
        for (int k = 0; k < S / 16; ++k) {
          multiply_add<E>(scores_s, left_s[k], *reinterpret_cast<const std::uint32_t*>(right_s + k * 16),
                          *reinterpret_cast<const std::uint32_t*>(right_s + k * 16 + 8));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int mine = ids[i / 2], theirs = other_ids[column + lane % 4 * 2 + i % 2];
          const bool counts = keys ? counted(theirs, mine, x.tinybert) : counted(mine, theirs, x.tinybert);
          const float value = x.student_scale * scores_s[i] - x.teacher_scale * scores_t[i];
          difference[half][i] = counts ? value : 0.0F;
          total += difference[half][i] * difference[half][i];
          difference[half][i] *= x.student_scale;
        }
      }
      if (!wanted) continue;
      const std::uint32_t high[4] = {
          packed<Bf16>(difference[0][0], difference[0][1]), packed<Bf16>(difference[0][2], difference[0][3]),
          packed<Bf16>(difference[1][0], difference[1][1]), packed<Bf16>(difference[1][2], difference[1][3])};
      const std::uint32_t low[4] = {
          rest(difference[0][0], difference[0][1]), rest(difference[0][2], difference[0][3]),
          rest(difference[1][0], difference[1][1]), rest(difference[1][2], difference[1][3])};
#pragma unroll
      for (int n = 0; n < S / 8; n += 2) {
        std::uint32_t pairs[4];
        load_transposed(pairs, &other_s[step * 16 + lane % 16][n * 8 + lane / 16 * 8]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          std::uint32_t b0[PARTS<E>], b1[PARTS<E>];
          split<E>(b0, pairs[half * 2]);
          split<E>(b1, pairs[half * 2 + 1]);
          multiply_add<Bf16>(gradient[n + half], low, b0[0], b1[0]);
          if (PARTS<E> == 2) multiply_add<Bf16>(gradient[n + half], high, b0[PARTS<E> - 1], b1[PARTS<E> - 1]);
          multiply_add<Bf16>(gradient[n + half], high, b0[0], b1[0]);
        }
      }
    }
  }

  if (wanted) {
    const Strides& s = x.gradient_strides[own];
    using Gradient = std::conditional_t<std::is_same_v<E, Bf16>, Bf16, float>;  // unscaled: too wide for fp16
    auto* const target = static_cast<Gradient*>(x.gradient[own]) + layer * x.gradient_layer[own] +
                         batch * s.batch + head * s.head + start * s.row;
#pragma unroll
    for (int n = 0; n < S / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = row + lane / 4 + (i / 2) * 8, column = n * 8 + lane % 4 * 2 + i % 2;
        if (at < length && column < x.student_width)
          target[at * s.row + column] = static_cast<Gradient>(gradient[n][i]);
      }
    }
  }
  if (keys) return;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) total += __shfl_xor_sync(0xFFFFFFFFU, total, offset);
  if (lane == 0) warp_sums[warp] = total;
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0.0F;
    for (int i = 0; i < WARPS; ++i) sum += warp_sums[i];
    x.sums[layer * static_cast<long long>(gridDim.x) + blockIdx.x] = sum;
  }
}

template <class E>
int launch_for(const AttentionArguments& x, int tiles, void* stream) {
  const dim3 grid(static_cast<unsigned>(tiles * x.heads * x.sequences), static_cast<unsigned>(x.layers),
                  x.gradient[1] ? 2 : 1);
  const bool narrow_s = x.student_width <= 32, narrow_t = x.teacher_width <= 32;
  auto* const kernel = narrow_s && narrow_t ? attention_kernel<E, 32, 32>
                       : narrow_s           ? attention_kernel<E, 32, 64>
                                            : attention_kernel<E, 64, 64>;
  return launch(kernel, grid, WARPS * 32, 0, stream, x, tiles);
}

}  // namespace

extern "C" {

// Rows of a tile: the caller makes room for sums of layers x (sequences x heads x tiles).
int edad_fast_cuda_rows() { return ROWS; }

const char* edad_fast_cuda_message(int error) {
#ifdef EDAD_FAST_CUDA_BLOCK
  return error ? "error" : "no error";
#else
  return cudaGetErrorString(static_cast<cudaError_t>(error));
#endif
}

// 0, or a cudaError_t. Heads of 64 at most.
int edad_fast_cuda_attention(const AttentionArguments* arguments, int longest, int device, void* stream) {
  if (const int error = use_device(device)) return error;
  const int tiles = (longest + ROWS - 1) / ROWS;
  return arguments->half ? launch_for<Half>(*arguments, tiles, stream)
                         : launch_for<Bf16>(*arguments, tiles, stream);
}
}
