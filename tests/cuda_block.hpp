// A CUDA block on the CPU, for kernels that no GPU is at hand for: its threads are coroutines that change at
// barriers.
//
// The fragments of mma.m16n8k16 and ldmatrix are written down here from the PTX manual, apart from the
// kernel, so that a kernel which takes them otherwise gives other numbers. Every thread sees the same grid;
// blocks run one by one.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))

using std::max;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned a, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct uint4 {
  std::uint32_t x, y, z, w;
};
inline uint4 make_uint4(std::uint32_t x, std::uint32_t y, std::uint32_t z, std::uint32_t w) {
  return {x, y, z, w};
}

struct __nv_bfloat16 {
  std::uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline float __bfloat162float(__nv_bfloat16 x) { return std::bit_cast<float>(std::uint32_t{x.bits} << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (std::isnan(x)) return {0x7FFF};
  return {static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)};
}
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}

inline dim3 threadIdx(0, 0, 0), blockIdx(0, 0, 0), gridDim(1);

namespace block {

constexpr int STACK = 1 << 16;

struct Barrier {
  int members = 0, waiting = 0, round = 0;
};
struct Warp {
  Barrier barrier;
  std::uint32_t a[32][4], b[32][2];
  const __nv_bfloat16* rows[32];
  float value[32];
};
struct Thread {
  ucontext_t context;
  jmp_buf place;  // changes without the system call of swapcontext
  std::unique_ptr<char[]> stack{new char[STACK]};
  bool started = false, done = false;
};

inline std::vector<Thread> threads;
inline std::vector<Warp> warps;
inline Barrier all;
inline jmp_buf scheduler;
inline std::function<void()> body;
inline int current = 0;

inline void wait(Barrier& barrier) {
  const int round = barrier.round;
  if (++barrier.waiting == barrier.members) {
    barrier.waiting = 0;
    ++barrier.round;
    return;
  }
  while (barrier.round == round) {
    if (!_setjmp(threads[current].place)) _longjmp(scheduler, 1);
  }
}

inline void enter() {
  body();
  threads[current].done = true;
  _longjmp(scheduler, 1);
}

inline void resume() {
  Thread& thread = threads[current];
  if (_setjmp(scheduler)) return;
  if (thread.started) _longjmp(thread.place, 1);
  thread.started = true;
  setcontext(&thread.context);
}

inline void run(dim3 grid, int count, std::function<void()> kernel) {
  gridDim = grid;
  body = std::move(kernel);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        threads = std::vector<Thread>(count);
        warps = std::vector<Warp>(count / 32);
        for (Warp& warp : warps) warp.barrier.members = 32;
        all = {count, 0, 0};
        for (Thread& thread : threads) {
          getcontext(&thread.context);
          thread.context.uc_stack.ss_sp = thread.stack.get();
          thread.context.uc_stack.ss_size = STACK;
          thread.context.uc_link = nullptr;
          makecontext(&thread.context, enter, 0);
        }
        for (bool left = true; left;) {
          left = false;
          for (current = 0; current < count; ++current) {
            if (threads[current].done) continue;
            left = true;
            threadIdx = dim3(static_cast<unsigned>(current), 0, 0);
            resume();
          }
        }
        if (all.waiting) std::abort();  // some threads left while others wait
      }
    }
  }
}

inline Warp& warp() { return warps[current / 32]; }
inline int lane() { return current % 32; }
inline float half_of(std::uint32_t pair, int which) {
  return __bfloat162float({static_cast<std::uint16_t>(pair >> (16 * which))});
}

}  // namespace block

inline void __syncthreads() { block::wait(block::all); }

inline float __shfl_xor_sync(unsigned, float value, int mask) {
  block::Warp& warp = block::warp();
  warp.value[block::lane()] = value;
  block::wait(warp.barrier);
  const float other = warp.value[block::lane() ^ mask];
  block::wait(warp.barrier);
  return other;
}

// c[16 x 8] += a[16 x 16] b[16 x 8]. Group g = lane / 4, place t = lane % 4 in it:
// a: registers 0 to 3 are rows g, g + 8, g, g + 8 and columns 2t, 2t + 1, the latter two 8 further right;
// b: registers 0 and 1 are rows 2t, 2t + 1 and those 8 further down, column g; c: rows g, g, g + 8, g + 8.
inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  block::Warp& warp = block::warp();
  const int lane = block::lane();
  std::copy(a, a + 4, warp.a[lane]);
  warp.b[lane][0] = b0;
  warp.b[lane][1] = b1;
  block::wait(warp.barrier);
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const std::uint32_t left = warp.a[row % 8 * 4 + k % 8 / 2][(row >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0)];
      const std::uint32_t right = warp.b[column * 4 + k % 8 / 2][k >= 8 ? 1 : 0];
      c[i] += block::half_of(left, k % 2) * block::half_of(right, k % 2);
    }
  }
  block::wait(warp.barrier);
}

// ldmatrix.x2.trans: matrix j has its rows at the addresses of lanes 8j to 8j + 7; transposed, a thread has
// the elements of rows 2t and 2t + 1 in column g.
inline void load_transposed(std::uint32_t& b0, std::uint32_t& b1, const __nv_bfloat16* row) {
  block::Warp& warp = block::warp();
  const int lane = block::lane();
  if (reinterpret_cast<std::uintptr_t>(row) % 16) std::abort();  // the hardware refuses such an address
  warp.rows[lane] = row;
  block::wait(warp.barrier);
  std::uint32_t* const targets[2] = {&b0, &b1};
  for (int j = 0; j < 2; ++j) {
    const std::uint32_t low = warp.rows[8 * j + lane % 4 * 2][lane / 4].bits;
    const std::uint32_t high = warp.rows[8 * j + lane % 4 * 2 + 1][lane / 4].bits;
    *targets[j] = low | high << 16;
  }
  block::wait(warp.barrier);
}
