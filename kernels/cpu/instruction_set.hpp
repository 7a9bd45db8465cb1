// Which of the compiled implementations suits this processor.
#pragma once

namespace edad_fast {

#if defined(__x86_64__)
template <class Function>
Function best(Function avx512bf16, Function avx512, Function avx2, Function portable) {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("f16c")) {
    return __builtin_cpu_supports("avx512bf16") ? avx512bf16 : avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    return avx2;
  }
  return portable;
}
#define EDAD_FAST_BEST(name)                                                                   \
  edad_fast::best(edad_fast::avx512bf16::name, edad_fast::avx512::name, edad_fast::avx2::name, \
                  edad_fast::portable::name)
#else
#define EDAD_FAST_BEST(name) (&edad_fast::portable::name)
#endif

}  // namespace edad_fast
