// A CUDA block on the CPU, for kernels that no GPU is at hand for: its threads are coroutines that change at
// barriers.
//
// The fragments of mma.m16n8k16 and ldmatrix are written down here from the PTX manual, apart from the
// kernels, so that a kernel which takes them otherwise gives other numbers; asynchronous copies arrive when
// they are waited for, not before. Every thread sees the same grid; blocks run one by one.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
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
using std::min;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned a, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(16) uint4 {
  std::uint32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float __uint_as_float(std::uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint4 make_uint4(std::uint32_t x, std::uint32_t y, std::uint32_t z, std::uint32_t w) {
  return {x, y, z, w};
}

struct __nv_bfloat16 {
  std::uint16_t bits;
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float x) {
    const auto all = std::bit_cast<std::uint32_t>(x);
    bits = static_cast<std::uint16_t>(std::isnan(x) ? 0x7FFF : (all + 0x7FFF + ((all >> 16) & 1)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
};
struct __half {
  std::uint16_t bits;
  __half() = default;
  explicit __half(float x) {
    const bool negative = std::signbit(x);
    x = std::fabs(x);
    const int exponent = x > 0 && std::isfinite(x) ? std::max(std::ilogb(x), -14) : 0;
    const float units = std::nearbyint(std::ldexp(x, 10 - exponent));  // of the last place
    const bool hidden = units >= 1024;
    std::uint32_t magnitude = 0;
    if (std::isnan(x)) {
      magnitude = 0x7FFF;
    } else if (!std::isfinite(x) || exponent > 15) {
      magnitude = 0x7C00;
    } else if (x > 0) {  // a carry into the exponent is the next number
      magnitude = static_cast<std::uint32_t>(units) + (hidden ? (exponent + 15 - 1) * 1024 : 0);
    }
    bits = static_cast<std::uint16_t>(magnitude | (negative ? 0x8000 : 0));
  }
  explicit operator float() const {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float value = exponent ? std::ldexp(1024.0F + static_cast<float>(fraction), exponent - 25)
                           : std::ldexp(static_cast<float>(fraction), -24);
    if (exponent == 31) value = fraction ? NAN : INFINITY;
    return bits & 0x8000 ? -value : value;
  }
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
struct alignas(4) __half2 {
  __half x, y;
};
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 pair) { return {float(pair.x), float(pair.y)}; }
inline float2 __half22float2(__half2 pair) { return {float(pair.x), float(pair.y)}; }

inline dim3 threadIdx(0, 0, 0), blockIdx(0, 0, 0), gridDim(1);

namespace block {

constexpr int STACK = 1 << 16;

struct Barrier {
  int members = 0, waiting = 0, round = 0;
};
struct Warp {
  Barrier barrier;
  std::uint32_t a[32][4], b[32][2];
  const std::uint16_t* rows[32];
  float value[32];
};
struct Copy {
  void* to;
  const void* from;
  int bytes;
};
struct Thread {
  ucontext_t context;
  jmp_buf place;  // changes without the system call of swapcontext
  std::unique_ptr<char[]> stack{new char[STACK]};
  bool started = false, done = false;
  std::vector<Copy> uncommitted;
  std::deque<std::vector<Copy>> groups;
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
template <class E>
float half_of(std::uint32_t pair, int which) {
  E value;
  value.bits = static_cast<std::uint16_t>(pair >> (16 * which));
  return float(value);
}
inline void need_alignment(const void* address) {
  if (reinterpret_cast<std::uintptr_t>(address) % 16) std::abort();  // the hardware refuses such an address
}
alignas(16) inline uint4 pool[1 << 13];

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
template <class E>
void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
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
      c[i] += block::half_of<E>(left, k % 2) * block::half_of<E>(right, k % 2);
    }
  }
  block::wait(warp.barrier);
}

// ldmatrix.x4: matrix j has its rows at the addresses of lanes 8j to 8j + 7; a thread has elements 2t and
// 2t + 1 of row g or, transposed, those of rows 2t and 2t + 1 in column g.
inline void load_matrices(std::uint32_t (&x)[4], const void* row, bool transposed = false) {
  block::Warp& warp = block::warp();
  const int g = block::lane() / 4, t = block::lane() % 4;
  block::need_alignment(row);
  warp.rows[block::lane()] = static_cast<const std::uint16_t*>(row);
  block::wait(warp.barrier);
  for (int j = 0; j < 4; ++j) {
    const std::uint16_t* const* const rows = warp.rows + 8 * j;
    unsigned banks = 0;
    for (int i = 0; i < 8; ++i) banks |= 1U << reinterpret_cast<std::uintptr_t>(rows[i]) / 16 % 8;
    if (banks != 0xFF) std::abort();  // two rows of a matrix in the same banks: correct, but slow
    const std::uint32_t low = transposed ? rows[2 * t][g] : rows[g][2 * t];
    const std::uint32_t high = transposed ? rows[2 * t + 1][g] : rows[g][2 * t + 1];
    x[j] = low | high << 16;
  }
  block::wait(warp.barrier);
}
inline void load_transposed(std::uint32_t (&x)[4], const void* row) { load_matrices(x, row, true); }

inline void copy_async(void* shared, const void* global, int bytes) {
  block::need_alignment(shared);
  block::need_alignment(global);
  if (bytes < 0 || bytes > 16) std::abort();
  std::memset(shared, 0xFF, 16);  // NaN until it arrives
  block::threads[block::current].uncommitted.push_back({shared, global, bytes});
}
inline void commit_copies() {
  block::Thread& thread = block::threads[block::current];
  thread.groups.push_back(std::move(thread.uncommitted));
  thread.uncommitted.clear();
}
template <int N>
void wait_for_copies() {
  auto& groups = block::threads[block::current].groups;
  for (; groups.size() > N; groups.pop_front()) {
    for (const block::Copy& copy : groups.front()) {
      std::memset(copy.to, 0, 16);
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
  }
}
inline uint4* shared_pool() { return block::pool; }
