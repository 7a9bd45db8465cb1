// Segmenter in Python. Docs: edad_fast/_native.pyi.
#include "wordpiece/segment.hpp"

#include <pybind11/stl.h>

#include "bindings.hpp"
#include "convert.hpp"

namespace edad_fast::bindings {
namespace {

using wordpiece::Segmentation;
using wordpiece::Segmenter;

py::tuple segment(const Segmenter& segmenter, const py::list& words, bool as_continuation) {
  // A tuple of our own: without the GIL another thread may change the list.
  const py::tuple held(words);
  const std::vector<std::string_view> views = str_views(held);
  Segmentation result;
  {
    const py::gil_scoped_release release;
    result = segmenter.segment(views, as_continuation);
  }
  return py::make_tuple(to_numpy(std::move(result.ids)), to_numpy(std::move(result.offsets)));
}

}  // namespace

void bind_segment(py::module_& module) {
  py::class_<Segmenter>(module, "Segmenter")
      .def(py::init<const std::vector<std::string>&, std::int32_t, std::string_view, std::size_t>(),
           py::arg("pieces"), py::arg("unk_id"), py::arg("prefix") = "##", py::arg("max_chars") = 100)
      .def("segment", &segment, py::arg("words"), py::arg("as_continuation") = false);
}

}  // namespace edad_fast::bindings
