// edad_fast._native: the only file that knows Python. Signatures and docs: edad_fast/_native.pyi.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>

#include "wordpiece/segment.hpp"

namespace py = pybind11;
using edad_fast::wordpiece::Segmentation;
using edad_fast::wordpiece::Segmenter;

namespace {

// The array takes the vector's memory over, without a copy.
template <typename T>
py::array_t<T> to_numpy(std::vector<T> values) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  const py::capsule owner(owned.get(), [](void* pointer) { delete static_cast<std::vector<T>*>(pointer); });
  const std::vector<T>& kept = *owned.release();
  return py::array_t<T>(static_cast<py::ssize_t>(kept.size()), kept.data(), owner);
}

// Views into the str objects' own UTF-8; they live as long as `words` holds the objects.
std::vector<std::string_view> utf8_views(const py::tuple& words) {
  std::vector<std::string_view> views;
  views.reserve(words.size());
  for (const py::handle word : words) {
    if (!PyUnicode_Check(word.ptr())) {
      throw py::type_error("words[" + std::to_string(views.size()) + "] is not a str");
    }
    py::ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(word.ptr(), &size);
    if (data == nullptr) {
      throw py::error_already_set();
    }
    views.emplace_back(data, static_cast<std::size_t>(size));
  }
  return views;
}

py::tuple segment(const Segmenter& segmenter, const py::list& words, bool as_continuation) {
  // A tuple of our own: without the GIL another thread may change the list.
  const py::tuple held(words);
  const std::vector<std::string_view> views = utf8_views(held);
  Segmentation result;
  {
    const py::gil_scoped_release release;
    result = segmenter.segment(views, as_continuation);
  }
  return py::make_tuple(to_numpy(std::move(result.ids)), to_numpy(std::move(result.offsets)));
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  py::class_<Segmenter>(module, "Segmenter")
      .def(py::init<const std::vector<std::string>&, std::int32_t, std::string_view, std::size_t>(),
           py::arg("pieces"), py::arg("unk_id"), py::arg("prefix") = "##", py::arg("max_chars") = 100)
      .def("segment", &segment, py::arg("words"), py::arg("as_continuation") = false);
}
