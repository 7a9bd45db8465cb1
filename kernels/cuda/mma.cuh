// What the kernels of this folder share: tensor-core instructions (sm_80 and later), 16-bit elements,
// launches.
#pragma once

#ifdef EDAD_FAST_CUDA_BLOCK  // a block emulated on the CPU, for tests
#include EDAD_FAST_CUDA_BLOCK
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace edad_fast {

using Bf16 = __nv_bfloat16;
using Half = __half;

#ifndef EDAD_FAST_CUDA_BLOCK
// c[16 x 8] += a[16 x 16] b[16 x 8] of elements E, summed in fp32.
template <class E>
__device__ __forceinline__ void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                             std::uint32_t b1) {
  if constexpr (std::is_same_v<E, Bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// Four 8 x 8 tiles; lanes 8 j to 8 j + 7 hold the addresses of the rows of tile j.
__device__ __forceinline__ void load_matrices(std::uint32_t (&x)[4], const void* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address));
}

__device__ __forceinline__ void load_transposed(std::uint32_t (&x)[4], const void* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address));
}

// 16 bytes to shared memory, the first `bytes` of them copied, the others 0.
__device__ __forceinline__ void copy_async(void* shared, const void* global, int bytes) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(global), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Until at most N groups of this thread's copies are under way.
template <int N>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}

// Shared memory whose size the launch says.
__device__ __forceinline__ uint4* shared_pool() {
  extern __shared__ uint4 pool[];
  return pool;
}
#endif

template <class E>
__device__ __forceinline__ std::uint32_t packed(float low, float high) {
  if constexpr (std::is_same_v<E, Bf16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const std::uint32_t*>(&pair);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const std::uint32_t*>(&pair);
  }
}

template <class E>
__device__ __forceinline__ float2 unpacked(std::uint32_t pair) {
  if constexpr (std::is_same_v<E, Bf16>) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
  } else {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
  }
}

// What bf16 left of x and y.
__device__ __forceinline__ std::uint32_t rest(float x, float y) {
  const float2 head = unpacked<Bf16>(packed<Bf16>(x, y));
  return packed<Bf16>(x - head.x, y - head.y);
}

// Factors of an fp32 difference go to the tensor cores in bf16, whose range the difference may need. One of
// bf16 is a part by itself; one of fp16 is two, without loss: 8 bits and the 3 others.
template <class E>
constexpr int PARTS = std::is_same_v<E, Bf16> ? 1 : 2;

template <class E>
__device__ __forceinline__ void split(std::uint32_t (&parts)[PARTS<E>], std::uint32_t pair) {
  if constexpr (PARTS<E> == 1) {
    parts[0] = pair;
  } else {
    const float2 value = unpacked<E>(pair);
    parts[0] = packed<Bf16>(value.x, value.y);
    parts[1] = rest(value.x, value.y);
  }
}

// 0, or a cudaError_t.
inline int use_device(int device) {
#ifdef EDAD_FAST_CUDA_BLOCK
  static_cast<void>(device);
  return 0;
#else
  return cudaSetDevice(device);
#endif
}

// Blocks of `threads`, with `bytes` of shared_pool(); 0, or a cudaError_t.
template <class... Arguments>
int launch(void (*kernel)(Arguments...), dim3 grid, int threads, std::size_t bytes, void* stream,
           const Arguments&... arguments) {
#ifdef EDAD_FAST_CUDA_BLOCK
  static_cast<void>(bytes);
  static_cast<void>(stream);
  block::run(grid, threads, [&] { kernel(arguments...); });
  return 0;
#else
  if (bytes > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (error != cudaSuccess) return error;
  }
  // clang-format off
  kernel<<<grid, threads, bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
  // clang-format on
  return cudaGetLastError();
#endif
}

}  // namespace edad_fast
