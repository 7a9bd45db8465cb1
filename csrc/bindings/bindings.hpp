// The parts of edad_fast._native.
#pragma once

#include <pybind11/pybind11.h>

namespace edad_fast::bindings {

void bind_batches(pybind11::module_& module);
void bind_encode(pybind11::module_& module);
void bind_learn(pybind11::module_& module);
void bind_segment(pybind11::module_& module);

}  // namespace edad_fast::bindings
