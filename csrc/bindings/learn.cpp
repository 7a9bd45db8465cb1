// WordCounts, learn and merge for Python. Signatures and docs: edad_fast/_native.pyi.
#include "wordpiece/learn.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "bindings.hpp"
#include "convert.hpp"
#include "wordpiece/count_list.hpp"
#include "wordpiece/merge.hpp"

namespace edad_fast::bindings {
namespace {

using wordpiece::CountList;
using wordpiece::MergeOptions;
using wordpiece::MergePoint;
using wordpiece::Progress;
using Int64Array = py::array_t<std::int64_t, py::array::c_style>;

std::vector<std::string> strings(const py::list& items, const char* name) {
  const std::vector<std::string_view> views = str_views(py::tuple(items), name);
  return {views.begin(), views.end()};
}

CountList from_items(const py::list& words, const Int64Array& counts, std::int64_t long_words) {
  const py::tuple held(words);
  if (counts.ndim() != 1 || counts.size() != static_cast<py::ssize_t>(held.size())) {
    throw std::invalid_argument(std::to_string(held.size()) + " words need as many counts, in one dimension");
  }
  const std::vector<std::string_view> views = str_views(held);
  std::vector<std::pair<std::string, std::int64_t>> items;
  items.reserve(views.size());
  for (std::size_t i = 0; i < views.size(); ++i) {
    items.emplace_back(views[i], counts.at(static_cast<py::ssize_t>(i)));
  }
  const py::gil_scoped_release release;
  return wordpiece::make_count_list(std::move(items), long_words);
}

// Words start to stop, as a slice takes them.
py::list words_between(const CountList& list, py::ssize_t start, std::optional<py::ssize_t> stop) {
  const auto size = static_cast<py::ssize_t>(list.size());
  const auto clip = [&](py::ssize_t place) {
    return std::clamp<py::ssize_t>(place < 0 ? place + size : place, 0, size);
  };
  const py::ssize_t begin = clip(start);
  const py::ssize_t end = std::max(begin, clip(stop.value_or(size)));
  py::list words(static_cast<std::size_t>(end - begin));
  for (py::ssize_t i = begin; i < end; ++i) {
    const std::string_view word = list.word(static_cast<std::size_t>(i));
    words[static_cast<std::size_t>(i - begin)] = py::str(word.data(), word.size());
  }
  return words;
}

std::int64_t get(const CountList& list, std::string_view word, std::int64_t otherwise) {
  const std::int64_t place = list.find(word);
  return place < 0 ? otherwise : list.counts[static_cast<std::size_t>(place)];
}

void save(const CountList& list, const std::filesystem::path& path, const std::string& header) {
  const py::gil_scoped_release release;
  wordpiece::save_counts(list, path.string(), header);
}

std::pair<CountList, std::string> load(const std::filesystem::path& path) {
  const py::gil_scoped_release release;
  return wordpiece::load_counts(path.string());
}

CountList merge_lists(const std::vector<std::shared_ptr<CountList>>& lists) {
  std::vector<const CountList*> pointers;
  for (std::size_t i = 0; i < lists.size(); ++i) {
    if (!lists[i]) {
      throw py::type_error("lists[" + std::to_string(i) + "] is None");
    }
    pointers.push_back(lists[i].get());
  }
  const py::gil_scoped_release release;
  return wordpiece::merge_counts(pointers);
}

// Runs without the GIL and takes it for each call. Ctrl-C is noticed even without a callback.
class PythonProgress {
 public:
  explicit PythonProgress(py::object callback) : callback_(std::move(callback)) {
    if (!callback_.is_none() && PyCallable_Check(callback_.ptr()) == 0) {
      throw py::type_error("progress is neither None nor something to call");
    }
  }

  Progress function() const {
    return [this](std::size_t done, std::size_t size) {
      const py::gil_scoped_acquire acquire;
      if (PyErr_CheckSignals() != 0) {
        throw py::error_already_set();
      }
      if (callback_.is_none()) {
        return true;
      }
      const py::object answer = callback_(done, size);
      return answer.is_none() || answer.cast<bool>();
    };
  }

 private:
  py::object callback_;
};

py::tuple learn(const CountList& counts, std::size_t size, const std::string& criterion,
                std::int64_t min_frequency, std::size_t max_piece_chars, std::size_t alphabet_limit,
                const std::string& prefix, std::size_t max_word_chars, py::object progress) {
  wordpiece::LearnOptions options{.size = size,
                                  .criterion = wordpiece::Criterion::frequency,
                                  .min_frequency = min_frequency,
                                  .max_piece_chars = max_piece_chars,
                                  .alphabet_limit = alphabet_limit,
                                  .prefix = prefix,
                                  .max_word_chars = max_word_chars};
  if (criterion == "likelihood") {
    options.criterion = wordpiece::Criterion::likelihood;
  } else if (criterion != "frequency") {
    throw std::invalid_argument("criterion '" + criterion +
                                "' is unknown; the ones there are: frequency, likelihood");
  }
  const PythonProgress callback(std::move(progress));
  wordpiece::Learned learned;
  {
    const py::gil_scoped_release release;
    learned = wordpiece::learn(counts, options, callback.function());
  }
  return py::make_tuple(py::cast(learned.pieces), to_numpy(std::move(learned.counts)));
}

py::dict points(const std::vector<MergePoint>& values) {
  std::vector<std::int64_t> sizes, tokens;
  std::vector<double> log_likelihoods, gains;
  for (const MergePoint& point : values) {
    sizes.push_back(static_cast<std::int64_t>(point.size));
    tokens.push_back(point.tokens);
    log_likelihoods.push_back(point.log_likelihood);
    gains.push_back(point.gain);
  }
  py::dict result;
  result["size"] = to_numpy(std::move(sizes));
  result["tokens"] = to_numpy(std::move(tokens));
  result["log_likelihood"] = to_numpy(std::move(log_likelihoods));
  result["gain"] = to_numpy(std::move(gains));
  return result;
}

const char* name_of(wordpiece::MergeEnd end) {
  switch (end) {
    case wordpiece::MergeEnd::threshold:
      return "threshold";
    case wordpiece::MergeEnd::max_size:
      return "max_size";
    case wordpiece::MergeEnd::candidates:
      return "candidates";
    case wordpiece::MergeEnd::size:
      break;
  }
  return "size";
}

py::dict merge(const py::list& general, const py::list& candidates, const CountList& counts,
               std::optional<std::size_t> size, double threshold, std::size_t interval,
               std::optional<std::size_t> max_size, bool reuse_unused, std::size_t pad_to_multiple,
               std::int32_t unk_id, const std::string& prefix, std::size_t max_chars, py::object progress) {
  const std::vector<std::string> general_pieces = strings(general, "general");
  const std::vector<std::string> new_pieces = strings(candidates, "candidates");
  const MergeOptions options{
      .size = size.value_or(0),
      .automatic = !size.has_value(),
      .threshold = threshold,
      .interval = interval,
      .max_size = max_size.value_or(std::numeric_limits<std::size_t>::max() / 2),
      .reuse_unused = reuse_unused,
      .pad_to_multiple = pad_to_multiple,
      .unk_id = unk_id,
      .prefix = prefix,
      .max_chars = max_chars,
  };
  const PythonProgress callback(std::move(progress));
  wordpiece::Merged merged;
  {
    const py::gil_scoped_release release;
    merged = wordpiece::merge(general_pieces, new_pieces, counts, options, callback.function());
  }
  py::dict result;
  result["pieces"] = py::cast(merged.pieces);
  result["counts"] = to_numpy(std::move(merged.counts));
  result["general_size"] = merged.general_size;
  result["added"] = to_numpy(std::move(merged.added));
  result["passed_over"] = merged.passed_over;
  result["padding"] = merged.padding;
  result["end"] = name_of(merged.end);
  result["curve"] = points(merged.curve);
  result["steps"] = points(merged.steps);
  return result;
}

}  // namespace

void bind_learn(py::module_& module) {
  py::class_<CountList, std::shared_ptr<CountList>>(module, "WordCounts")
      .def_static("from_items", &from_items, py::arg("words"), py::arg("counts"), py::arg("long_words") = 0)
      .def_static("load", &load, py::arg("path"))
      .def_static("merge", &merge_lists, py::arg("lists"))
      .def("save", &save, py::arg("path"), py::arg("header") = "{}")
      .def("__len__", &CountList::size)
      .def(
          "__eq__", [](const CountList& one, const CountList& two) { return one == two; }, py::is_operator())
      .def_property_readonly("total", &CountList::total)
      .def_readonly("long_words", &CountList::long_words)
      .def("get", &get, py::arg("word"), py::arg("default") = 0)
      .def("words", &words_between, py::arg("start") = 0, py::arg("stop") = py::none())
      .def("counts", [](const CountList& list) { return to_numpy(std::vector<std::int64_t>(list.counts)); });
  module.def("learn", &learn, py::arg("counts"), py::arg("size"), py::arg("criterion") = "frequency",
             py::arg("min_frequency") = 2, py::arg("max_piece_chars") = 0, py::arg("alphabet_limit") = 1000,
             py::arg("prefix") = "##", py::arg("max_word_chars") = 100, py::arg("progress") = py::none());
  module.def("merge", &merge, py::arg("general"), py::arg("candidates"), py::arg("counts"), py::kw_only(),
             py::arg("size") = py::none(), py::arg("threshold") = 0.01, py::arg("interval") = 10000,
             py::arg("max_size") = py::none(), py::arg("reuse_unused") = false,
             py::arg("pad_to_multiple") = 0, py::arg("unk_id") = 0, py::arg("prefix") = "##",
             py::arg("max_chars") = 100, py::arg("progress") = py::none());
}

}  // namespace edad_fast::bindings
