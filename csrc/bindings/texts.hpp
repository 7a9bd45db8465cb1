// Python's texts as views, and buffers as numpy arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "wordpiece/buffer.hpp"
#include "wordpiece/normalize.hpp"
#include "wordpiece/text.hpp"

namespace edad_fast::bindings {

namespace py = pybind11;

// Views into str objects, which `texts` keeps alive: a tuple of our own, because without the GIL another
// thread may change a list.
struct HeldTexts {
  explicit HeldTexts(const py::object& sequence) : texts(py::tuple(sequence)) {
    views.reserve(texts.size());
    for (const py::handle text : texts) {
      if (!PyUnicode_Check(text.ptr())) {
        throw py::type_error("texts[" + std::to_string(views.size()) + "] is not a str");
      }
      views.push_back(view(text.ptr()));
    }
  }

  py::tuple texts;
  std::vector<wordpiece::TextView> views;

 private:
  static wordpiece::TextView view(PyObject* text) {
    using Kind = wordpiece::TextView::Kind;
    const auto size = static_cast<std::size_t>(PyUnicode_GET_LENGTH(text));
    if (PyUnicode_IS_ASCII(text)) {
      return {PyUnicode_DATA(text), size, Kind::utf8};
    }
    switch (PyUnicode_KIND(text)) {
      case PyUnicode_1BYTE_KIND:
        return {PyUnicode_DATA(text), size, Kind::latin1};
      case PyUnicode_2BYTE_KIND:
        return {PyUnicode_DATA(text), size, Kind::ucs2};
      default:
        return {PyUnicode_DATA(text), size, Kind::ucs4};
    }
  }
};

// One-dimensional, contiguous bytes of an object with the buffer protocol.
inline py::buffer_info bytes_of(const py::buffer& data) {
  py::buffer_info info = data.request();
  if (info.itemsize != 1 || info.ndim != 1 || (info.size > 1 && info.strides[0] != 1)) {
    throw py::type_error("data is no contiguous buffer of bytes");
  }
  return info;
}

template <typename T>
py::array_t<T> to_numpy(wordpiece::Buffer<T>&& buffer, std::vector<py::ssize_t> shape) {
  T* data = buffer.release();
  const py::capsule owner(data, [](void* pointer) { std::free(pointer); });
  return py::array_t<T>(std::move(shape), data, owner);
}

inline wordpiece::NormalizerOptions normalizer_options(const std::string& compat, bool lowercase,
                                                       std::optional<bool> strip_accents,
                                                       bool handle_chinese_chars, bool clean_text) {
  if (compat != "hf" && compat != "slow") {
    throw py::value_error("compat is '" + compat + "'; there are 'hf' and 'slow'");
  }
  wordpiece::NormalizerOptions options;
  options.compat = compat == "hf" ? wordpiece::Compat::hf : wordpiece::Compat::slow;
  options.clean_text = clean_text;
  options.handle_chinese_chars = handle_chinese_chars;
  options.strip_accents = strip_accents.value_or(lowercase);
  options.lowercase = lowercase;
  return options;
}

}  // namespace edad_fast::bindings
