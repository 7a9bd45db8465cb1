// Rows of training steps in Python. Docs: edad_fast/_native.pyi.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>

#include "batches/fill.hpp"
#include "bindings.hpp"

namespace edad_fast::bindings {
namespace {

namespace py = pybind11;

using Ints = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;
using Flags = py::array_t<bool, py::array::c_style | py::array::forcecast>;
using TokenFile = py::array_t<std::int32_t, py::array::c_style>;

template <typename To, typename Array>
std::span<const To> view(const Array& values, const char* name) {
  static_assert(sizeof(To) == sizeof(typename Array::value_type));
  if (values.ndim() != 1) {
    throw py::value_error(std::string(name) + " has " + std::to_string(values.ndim()) + " dimensions, not 1");
  }
  return {reinterpret_cast<const To*>(values.data()), static_cast<std::size_t>(values.size())};
}

py::tuple fill_rows(const py::tuple& files, std::int64_t tokens_per_file, const Ints& row, const Ints& start,
                    const Ints& length, const Ints& column, const Ints& origin, const Ints& segment,
                    const Ints& token_type, const Ints& epochs, const Ints& rows, std::int64_t seq_len,
                    std::int64_t cls_id, std::int64_t sep_id, std::int64_t pad_id, std::int64_t mask_id,
                    const Flags& special, const std::optional<Flags>& continuation, const Ints& replacements,
                    double probability, std::uint64_t seed) {
  batches::Tokens tokens;
  tokens.tokens_per_file = tokens_per_file;
  for (const py::handle file : files) {
    // Never converted: that would copy the corpus.
    if (!TokenFile::check_(file)) {
      throw py::type_error("files holds something else than contiguous int32 arrays");
    }
    tokens.files.push_back(view<std::int32_t>(py::reinterpret_borrow<TokenFile>(file), "files"));
  }
  const batches::Spans spans{view<std::int64_t>(row, "row"),
                             view<std::int64_t>(start, "start"),
                             view<std::int64_t>(length, "length"),
                             view<std::int64_t>(column, "column"),
                             view<std::int64_t>(origin, "origin"),
                             view<std::int64_t>(segment, "segment"),
                             view<std::int64_t>(token_type, "token_type")};
  batches::RowOptions options{seq_len, cls_id, sep_id, pad_id, {}};
  options.mask.special = view<std::uint8_t>(special, "special");
  if (continuation) {
    options.mask.continuation = view<std::uint8_t>(*continuation, "continuation");
  }
  options.mask.replacements = view<std::int64_t>(replacements, "replacements");
  options.mask.mask_id = mask_id;
  options.mask.probability = probability;
  options.mask.seed = seed;
  const std::span<const std::int64_t> epoch_keys = view<std::int64_t>(epochs, "epochs");
  const std::span<const std::int64_t> row_keys = view<std::int64_t>(rows, "rows");

  const auto n = static_cast<py::ssize_t>(row_keys.size());
  const py::ssize_t most = std::max<std::int64_t>(seq_len, 0);
  py::array_t<std::int64_t> input_ids({n, most}), position_ids({n, most}), token_type_ids({n, most});
  py::array_t<std::int32_t> segment_ids({n, most});
  py::array_t<std::int64_t> positions(n * most), labels(n * most), begins(n * most);
  py::array_t<std::int64_t> masked(n), begun(n), n_tokens(n), pairs(n);
  py::array_t<bool> full(n);
  const batches::Rows out{input_ids.mutable_data(),    segment_ids.mutable_data(),
                          position_ids.mutable_data(), token_type_ids.mutable_data(),
                          positions.mutable_data(),    labels.mutable_data(),
                          begins.mutable_data(),       masked.mutable_data(),
                          begun.mutable_data(),        n_tokens.mutable_data(),
                          pairs.mutable_data(),        reinterpret_cast<std::uint8_t*>(full.mutable_data())};
  batches::Totals totals;
  {
    const py::gil_scoped_release release;
    totals = batches::fill(tokens, spans, options, epoch_keys, row_keys, out);
  }
  positions.resize({static_cast<py::ssize_t>(totals.masked)}, false);
  labels.resize({static_cast<py::ssize_t>(totals.masked)}, false);
  begins.resize({static_cast<py::ssize_t>(totals.begun)}, false);
  return py::make_tuple(input_ids, segment_ids, position_ids, token_type_ids, positions, labels, begins,
                        masked, begun, n_tokens, pairs, full);
}

}  // namespace

void bind_batches(py::module_& module) {
  module.def("fill_rows", &fill_rows, py::arg("files"), py::arg("tokens_per_file"), py::arg("row"),
             py::arg("start"), py::arg("length"), py::arg("column"), py::arg("origin"), py::arg("segment"),
             py::arg("token_type"), py::arg("epochs"), py::arg("rows"), py::kw_only(), py::arg("seq_len"),
             py::arg("cls_id"), py::arg("sep_id"), py::arg("pad_id"), py::arg("mask_id"), py::arg("special"),
             py::arg("continuation"), py::arg("replacements"), py::arg("probability"), py::arg("seed"));
}

}  // namespace edad_fast::bindings
