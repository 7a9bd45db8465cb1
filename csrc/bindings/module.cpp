// edad_fast._native. Only this folder knows Python. Signatures and docs: edad_fast/_native.pyi.
#include "bindings.hpp"

PYBIND11_MODULE(_native, module) {
  edad_fast::bindings::bind_learn(module);  // first: it makes the type WordCounts, which others return
  edad_fast::bindings::bind_batches(module);
  edad_fast::bindings::bind_encode(module);
  edad_fast::bindings::bind_segment(module);
}
