// A block's tile of a product of two matrices on tensor cores, the operands copied to shared memory ahead of
// their use. Either operand may lie in memory with the summed dimension down its rows ("turned").
#pragma once

#include <cstdint>

#include "mma.cuh"

namespace edad_fast {

constexpr int TILE = 128;     // rows of a block's result
constexpr int DEPTH = 32;     // terms of the sums at a time
constexpr int STAGES = 4;     // of them in flight
constexpr int THREADS = 128;  // four warps, two by two; each computes 64 rows

// A tile of a matrix in memory; what lies beyond `rows` and `columns` is taken as 0.
struct Source {
  const void* data;
  int stride, row, rows, column, columns;
};

// Which 16-byte piece of shared memory holds a piece of a tile of COLUMNS columns: the eight rows that
// ldmatrix reads at a time lie in different banks.
template <int COLUMNS>
__device__ __forceinline__ int place(int row, int piece) {
  static_assert(COLUMNS == 32 || COLUMNS == 128 || COLUMNS == 160);
  const int turned = COLUMNS == 32 ? (row >> 1 ^ row >> 3) & 3 : COLUMNS == 128 ? row & 7 : row >> 1 & 3;
  return row * (COLUMNS / 8) + (piece ^ turned);
}

template <int ROWS, int COLUMNS>
__device__ __forceinline__ void load(uint4* tile, const Source& x) {
  static_assert(ROWS * COLUMNS % (8 * THREADS) == 0);
#pragma unroll 2
  for (int i = 0; i < ROWS * COLUMNS / (8 * THREADS); ++i) {
    const int at = i * THREADS + static_cast<int>(threadIdx.x);
    const int row = at / (COLUMNS / 8), piece = at % (COLUMNS / 8);
    const int left = x.row + row < x.rows ? x.columns - x.column - piece * 8 : 0;
    const std::int64_t from =
        left > 0 ? static_cast<std::int64_t>(x.row + row) * x.stride + x.column + piece * 8 : 0;
    copy_async(&tile[place<COLUMNS>(row, piece)], static_cast<const std::uint16_t*>(x.data) + from,
               2 * max(0, min(left, 8)));
  }
}

// Fragments of the left factor, 16 rows; TURNED: the tile holds its transpose, [terms][rows].
template <bool TURNED>
__device__ __forceinline__ void left_fragment(std::uint32_t (&a)[4], const uint4* tile, int row, int term) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (TURNED) {
    load_transposed(a, &tile[place<TILE>(term + lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2)]);
  } else {
    load_matrices(a, &tile[place<DEPTH>(row + lane % 16, term / 8 + lane / 16)]);
  }
}

// Column, within a warp's share, of the first of two adjacent results that a thread has of eight-column tile
// n. Where the tile's rows are the columns, any order is as good: there a thread's results of four such tiles
// are eight adjacent columns.
template <bool TURNED>
__device__ __forceinline__ int column_of(int n, int place_in_group) {
  return TURNED ? n * 8 + place_in_group * 2 : n / 4 * 32 + place_in_group * 8 + n % 4 * 2;
}

// Fragments of the right factor for eight-column tiles n and n + 1; the tile is [terms][columns] if TURNED,
// else [columns][terms].
template <bool TURNED, int COLUMNS>
__device__ __forceinline__ void right_fragments(std::uint32_t (&b)[4], const uint4* tile, int column, int n,
                                                int term) {
  const int lane = static_cast<int>(threadIdx.x) % 32, which = lane / 16, half = lane / 8 % 2, row = lane % 8;
  if constexpr (TURNED) {
    load_transposed(b, &tile[place<COLUMNS>(term + half * 8 + row, column / 8 + n + which)]);
  } else {
    const int at = column + column_of<false>(n + which, row / 2) + row % 2;
    load_matrices(b, &tile[place<DEPTH>(at, term / 8 + half)]);
  }
}

// A block's results: warp w has rows w / 2 * 64 + [0, 64), columns w % 2 * COLUMNS / 2 + [0, COLUMNS / 2).
template <int COLUMNS>
struct Results {
  static constexpr int TILES = COLUMNS / 16;  // of eight columns, of a warp
  float value[4][TILES][4] = {};

  // use(row, column, value, next column's value) for all results of the thread; the right factor was turned.
  template <class Use>
  __device__ __forceinline__ void each_pair(int row, int column, Use use) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int m = 0; m < 4; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int n = 0; n < TILES; ++n) {
          use(row + m * 16 + half * 8 + lane / 4, column + column_of<true>(n, lane % 4),
              value[m][n][half * 2], value[m][n][half * 2 + 1]);
        }
      }
    }
  }
};

// What is computed, for rows [first, end): a Job says of which types the factors are, where their tiles of
// each step of DEPTH terms lie, what the sums begin with, and what becomes of them.
template <class Job>
__global__ void __launch_bounds__(THREADS, 2)
    product_kernel(const __grid_constant__ typename Job::Arguments arguments, int first, int end) {
  constexpr int COLUMNS = Job::COLUMNS;
  constexpr int LEFT = TILE * DEPTH / 8, RIGHT = COLUMNS * DEPTH / 8;  // 16-byte pieces
  using A = typename Job::Left;
  using B = typename Job::Right;
  // Factors of one type are multiplied as they are.
  constexpr int RIGHT_PARTS = std::is_same_v<A, B> ? 1 : PARTS<B>;

  uint4* const pool = shared_pool();
  const Job job(arguments, first, end);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int row = warp / 2 * 64, column = warp % 2 * (COLUMNS / 2);

  const auto fetch = [&](int step, int stage) {
    uint4* const left = pool + stage * (LEFT + RIGHT);
    if (step < job.steps) {
      Source a, b;
      job.sources(step, a, b);
      if constexpr (Job::LEFT_TURNED) {
        load<DEPTH, TILE>(left, a);
      } else {
        load<TILE, DEPTH>(left, a);
      }
      if constexpr (Job::RIGHT_TURNED) {
        load<DEPTH, COLUMNS>(left + LEFT, b);
      } else {
        load<COLUMNS, DEPTH>(left + LEFT, b);
      }
    }
    commit_copies();
  };
  for (int step = 0; step < STAGES - 1; ++step) fetch(step, step);

  Results<COLUMNS> results;
  job.begin(results, row, column);
  for (int step = 0; step < job.steps; ++step) {
    wait_for_copies<STAGES - 2>();
    __syncthreads();
    fetch(step + STAGES - 1, (step + STAGES - 1) % STAGES);
    const uint4* const left = pool + step % STAGES * (LEFT + RIGHT);
#pragma unroll
    for (int term = 0; term < DEPTH; term += 16) {
      std::uint32_t a[4][4];
#pragma unroll
      for (int m = 0; m < 4; ++m) left_fragment<Job::LEFT_TURNED>(a[m], left, row + m * 16, term);
#pragma unroll
      for (int n = 0; n < Results<COLUMNS>::TILES; n += 2) {
        std::uint32_t pairs[4];
        right_fragments<Job::RIGHT_TURNED, COLUMNS>(pairs, left + LEFT, column, n, term);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          std::uint32_t b0[RIGHT_PARTS], b1[RIGHT_PARTS];
          if constexpr (RIGHT_PARTS == 1) {
            b0[0] = pairs[half * 2];
            b1[0] = pairs[half * 2 + 1];
          } else {
            split<B>(b0, pairs[half * 2]);
            split<B>(b1, pairs[half * 2 + 1]);
          }
#pragma unroll
          for (int part = RIGHT_PARTS - 1; part >= 0; --part) {
#pragma unroll
            for (int m = 0; m < 4; ++m) multiply_add<A>(results.value[m][n + half], a[m], b0[part], b1[part]);
          }
        }
      }
    }
  }
  job.finish(results, row, column);
}

template <class Job, class Arguments>
int launch_product(const Arguments& arguments, dim3 grid, int first, int end, void* stream) {
  const std::size_t bytes = std::size_t{2} * STAGES * DEPTH * (TILE + Job::COLUMNS);
  return launch(product_kernel<Job>, grid, THREADS, bytes, stream, arguments, first, end);
}

}  // namespace edad_fast
