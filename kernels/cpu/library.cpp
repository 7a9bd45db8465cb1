// What Python calls: raw pointers and sizes in, nothing of Python or torch linked.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "attention.hpp"

namespace {

using edad_fast::HeadFunction;

HeadFunction best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("f16c")) {
    return __builtin_cpu_supports("avx512bf16") ? edad_fast::avx512bf16::attention_head
                                                : edad_fast::avx512::attention_head;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    return edad_fast::avx2::attention_head;
  }
#endif
  return edad_fast::portable::attention_head;
}

const char* advanced(const void* data, std::ptrdiff_t elements, std::size_t size) {
  return static_cast<const char*>(data) + elements * static_cast<std::ptrdiff_t>(size);
}

}  // namespace

extern "C" {

struct EdadFastTensor {
  const void* data;
  std::int64_t batch, head, row;  // strides in elements
};

// One layer. tensors: student_q, student_k, teacher_q, teacher_k, grad_q, grad_k (the last two may have no
// data). Sequences are rows of `batch`, or pieces [starts[i], starts[i + 1]) of the only row. Sums, one for
// each head of each sequence, are written to `sums`. Returns 0, or 1 where memory ran out.
int edad_fast_attention(const EdadFastTensor* tensors, std::int64_t sequences, std::int64_t heads,
                        std::int64_t length, const std::int32_t* starts, const std::int32_t* segments,
                        std::int64_t student_width, std::int64_t teacher_width, double student_scale,
                        double teacher_scale, int dtype, int tinybert, int linear, int threads,
                        double* sums) {
  const HeadFunction function = best();
  const auto kind = static_cast<edad_fast::Dtype>(dtype);
  const std::size_t size = kind == edad_fast::Dtype::fp32 ? 4 : 2;
  const std::size_t gradient_size = kind == edad_fast::Dtype::bf16 ? 2 : 4;
  std::atomic<std::int64_t> next{0};
  std::atomic<int> failed{0};
  auto work = [&] {
    try {
      for (std::int64_t item; (item = next.fetch_add(1)) < sequences * heads;) {
        const std::int64_t sequence = item / heads, head = item % heads;
        const std::int64_t batch = starts ? 0 : sequence, first = starts ? starts[sequence] : 0;
        auto place = [&](int index, std::size_t bytes) {
          const EdadFastTensor& x = tensors[index];
          return x.data ? advanced(x.data, batch * x.batch + head * x.head + first * x.row, bytes) : nullptr;
        };
        auto rows = [&](int index) { return edad_fast::Rows{place(index, size), tensors[index].row}; };
        const edad_fast::Head one{rows(0),
                                  rows(1),
                                  rows(2),
                                  rows(3),
                                  const_cast<char*>(place(4, gradient_size)),
                                  const_cast<char*>(place(5, gradient_size)),
                                  tensors[4].row,
                                  tensors[5].row,
                                  segments ? segments + batch * length : nullptr};
        const edad_fast::Options options{
            kind,
            static_cast<std::size_t>(starts ? starts[sequence + 1] - starts[sequence] : length),
            static_cast<std::size_t>(student_width),
            static_cast<std::size_t>(teacher_width),
            static_cast<float>(student_scale),
            static_cast<float>(teacher_scale),
            tinybert != 0,
            linear != 0};
        sums[item] = function(one, options);
      }
    } catch (...) {
      failed = 1;
    }
  };
  const auto extra = std::min<std::int64_t>(threads, sequences * heads) - 1;
  std::vector<std::thread> team;
  try {
    for (std::int64_t i = 0; i < extra; ++i) team.emplace_back(work);
  } catch (...) {  // fewer threads then
  }
  work();
  for (std::thread& thread : team) thread.join();
  return failed;
}
}
