// Encoder, Segmenter and WordCounter in Python. Docs: edad_fast/_native.pyi.
#include "wordpiece/encode.hpp"

#include <pybind11/stl.h>

#include <optional>

#include "bindings.hpp"
#include "texts.hpp"
#include "wordpiece/count.hpp"
#include "wordpiece/segment.hpp"

namespace edad_fast::bindings {
namespace {

using wordpiece::Encoded;
using wordpiece::Encoder;
using wordpiece::TextView;
using wordpiece::WordCounter;

py::tuple result(Encoded encoded, bool with_spans) {
  const auto tokens = static_cast<py::ssize_t>(encoded.ids.size());
  const auto rows = static_cast<py::ssize_t>(encoded.row_offsets.size());
  py::object ids = to_numpy(std::move(encoded.ids), {tokens});
  py::object offsets = to_numpy(std::move(encoded.row_offsets), {rows});
  if (!with_spans) {
    return py::make_tuple(ids, offsets);
  }
  return py::make_tuple(ids, offsets, to_numpy(std::move(encoded.spans), {tokens, 2}),
                        to_numpy(std::move(encoded.words), {tokens}));
}

py::tuple encode_views(const Encoder& encoder, const std::vector<TextView>& views, std::size_t n_threads,
                       bool with_spans) {
  Encoded encoded;
  {
    const py::gil_scoped_release release;
    encoded = encoder.encode(views, n_threads, with_spans);
  }
  return result(std::move(encoded), with_spans);
}

template <bool with_spans>
py::tuple encode(const Encoder& encoder, const py::object& texts, std::size_t n_threads) {
  const HeldTexts held(texts);
  return encode_views(encoder, held.views, n_threads, with_spans);
}

using Offsets = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

template <bool with_spans>
py::tuple encode_utf8(const Encoder& encoder, const py::buffer& data, const Offsets& offsets,
                      std::size_t n_threads) {
  const py::buffer_info bytes = bytes_of(data);
  if (offsets.ndim() != 1 || offsets.size() == 0) {
    throw py::value_error("offsets is no array of one dimension with at least one element");
  }
  const std::int64_t* bounds = offsets.data();
  std::vector<TextView> views;
  views.reserve(static_cast<std::size_t>(offsets.size() - 1));
  for (py::ssize_t i = 0; i + 1 < offsets.size(); ++i) {
    if (bounds[i] < 0 || bounds[i + 1] < bounds[i] || bounds[i + 1] > bytes.size) {
      throw py::value_error("offsets[" + std::to_string(i) + "] and the next are " +
                            std::to_string(bounds[i]) + " and " + std::to_string(bounds[i + 1]) +
                            ", no part of the " + std::to_string(bytes.size) + " bytes of data");
    }
    views.push_back({static_cast<const char*>(bytes.ptr) + bounds[i],
                     static_cast<std::size_t>(bounds[i + 1] - bounds[i]), TextView::Kind::utf8});
  }
  return encode_views(encoder, views, n_threads, with_spans);
}

std::unique_ptr<Encoder> make_encoder(const std::vector<std::string>& pieces, std::int32_t unk_id,
                                      const std::string& compat, bool lowercase,
                                      std::optional<bool> strip_accents, bool handle_chinese_chars,
                                      bool clean_text, const std::string& prefix, std::size_t max_chars,
                                      std::vector<std::pair<std::string, std::int32_t>> literals) {
  wordpiece::EncoderOptions options;
  options.normalizer = normalizer_options(compat, lowercase, strip_accents, handle_chinese_chars, clean_text);
  options.unk_id = unk_id;
  options.prefix = prefix;
  options.max_chars = max_chars;
  options.literals = std::move(literals);
  return std::make_unique<Encoder>(pieces, std::move(options));
}

void add_texts(WordCounter& counter, const py::object& texts, std::size_t n_threads) {
  const HeldTexts held(texts);
  const py::gil_scoped_release release;
  counter.add(held.views, n_threads);
}

void add_utf8(WordCounter& counter, const py::buffer& data, std::size_t n_threads) {
  const py::buffer_info bytes = bytes_of(data);
  const py::gil_scoped_release release;
  counter.add_utf8({static_cast<const char*>(bytes.ptr), static_cast<std::size_t>(bytes.size)}, n_threads);
}

}  // namespace

void bind_encode(py::module_& module) {
  py::class_<Encoder>(module, "Encoder")
      .def(py::init(&make_encoder), py::arg("pieces"), py::kw_only(), py::arg("unk_id"),
           py::arg("compat") = "hf", py::arg("lowercase") = true, py::arg("strip_accents") = py::none(),
           py::arg("handle_chinese_chars") = true, py::arg("clean_text") = true, py::arg("prefix") = "##",
           py::arg("max_chars") = 100, py::arg("literals") = py::list())
      .def("encode", &encode<false>, py::arg("texts"), py::arg("n_threads") = 1)
      .def("encode_with_offsets", &encode<true>, py::arg("texts"), py::arg("n_threads") = 1)
      .def("encode_utf8", &encode_utf8<false>, py::arg("data"), py::arg("offsets"), py::arg("n_threads") = 1)
      .def("encode_utf8_with_offsets", &encode_utf8<true>, py::arg("data"), py::arg("offsets"),
           py::arg("n_threads") = 1);

  py::class_<WordCounter>(module, "WordCounter")
      .def(py::init([](const std::string& compat, bool lowercase, std::optional<bool> strip_accents,
                       bool handle_chinese_chars, bool clean_text, std::size_t max_chars) {
             return std::make_unique<WordCounter>(
                 normalizer_options(compat, lowercase, strip_accents, handle_chinese_chars, clean_text),
                 max_chars);
           }),
           py::kw_only(), py::arg("compat") = "hf", py::arg("lowercase") = true,
           py::arg("strip_accents") = py::none(), py::arg("handle_chinese_chars") = true,
           py::arg("clean_text") = true, py::arg("max_chars") = 100)
      .def("add", &add_texts, py::arg("texts"), py::arg("n_threads") = 1)
      .def("add_utf8", &add_utf8, py::arg("data"), py::arg("n_threads") = 1)
      .def("finish", &WordCounter::finish, py::call_guard<py::gil_scoped_release>());
}

}  // namespace edad_fast::bindings
