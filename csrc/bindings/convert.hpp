// Conversions between Python's types and the core's, shared by the bindings.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edad_fast::bindings {

namespace py = pybind11;

// The array takes the vector's memory over, without a copy.
template <typename T>
py::array_t<T> to_numpy(std::vector<T> values) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  const py::capsule owner(owned.get(), [](void* pointer) { delete static_cast<std::vector<T>*>(pointer); });
  const std::vector<T>& kept = *owned.release();
  return py::array_t<T>(static_cast<py::ssize_t>(kept.size()), kept.data(), owner);
}

// Views into the str objects' own UTF-8; they live as long as `words` holds the objects.
// Throws TypeError naming the item that is no str, UnicodeEncodeError for half of a surrogate pair.
inline std::vector<std::string_view> str_views(const py::tuple& words, const char* name = "words") {
  std::vector<std::string_view> views;
  views.reserve(words.size());
  for (const py::handle word : words) {
    if (!PyUnicode_Check(word.ptr())) {
      throw py::type_error(std::string(name) + "[" + std::to_string(views.size()) + "] is not a str");
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

}  // namespace edad_fast::bindings
