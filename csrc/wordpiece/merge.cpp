#include "merge.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <unordered_set>

#include "segmented_words.hpp"

namespace edad_fast::wordpiece {
namespace {

constexpr std::size_t kProgressCalls = 256;

bool is_unused(std::string_view piece) {
  constexpr std::string_view kBegin = "[unused";
  return piece.size() > kBegin.size() + 1 && piece.starts_with(kBegin) && piece.ends_with(']') &&
         std::ranges::all_of(piece.substr(kBegin.size(), piece.size() - kBegin.size() - 1),
                             [](char c) { return c >= '0' && c <= '9'; });
}

double term(std::int64_t count) {
  const auto value = static_cast<double>(count);
  return count > 0 ? value * std::log(value) : 0;
}

// Neumaier's sum: the rounding errors are added up as well.
class Sum {
 public:
  void add(double value) {
    const double next = sum_ + value;
    rest_ += std::abs(sum_) >= std::abs(value) ? (sum_ - next) + value : (value - next) + sum_;
    sum_ = next;
  }
  double value() const { return sum_ + rest_; }

 private:
  double sum_ = 0, rest_ = 0;
};

void check(const std::vector<std::string>& general, const std::vector<std::string>& candidates,
           const MergeOptions& options) {
  if (general.size() + candidates.size() > std::numeric_limits<std::int32_t>::max() / 2) {
    throw std::invalid_argument("too many pieces: ids are 32-bit");
  }
  if (options.unk_id < 0 || static_cast<std::size_t>(options.unk_id) >= general.size()) {
    throw std::invalid_argument("unk_id " + std::to_string(options.unk_id) + " is outside the " +
                                std::to_string(general.size()) + " general pieces");
  }
  const std::size_t size = options.automatic ? options.max_size : options.size;
  if (size < general.size()) {
    throw std::invalid_argument("vocabulary size " + std::to_string(size) +
                                " is below the general vocabulary's " + std::to_string(general.size()) +
                                " pieces, whose ids must stay; give " + std::to_string(general.size()) +
                                " or more");
  }
  if (options.automatic && options.interval == 0) {
    throw std::invalid_argument("interval is 0; give 1 or more");
  }
}

// The general pieces and the candidates; marks candidates that are there already.
std::vector<std::string> all_pieces(const std::vector<std::string>& general,
                                    const std::vector<std::string>& candidates, std::vector<bool>& skip) {
  std::vector<std::string> pieces = general;
  pieces.insert(pieces.end(), candidates.begin(), candidates.end());
  std::unordered_set<std::string_view> seen;
  seen.reserve(pieces.size());
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    const bool is_general = id < general.size();
    const std::size_t place = is_general ? id : id - general.size();
    const std::string name = is_general ? "general piece " : "candidate ";
    if (pieces[id].empty()) {
      throw std::invalid_argument(name + std::to_string(place) + " is empty");
    }
    const bool is_new = seen.insert(pieces[id]).second;
    if (is_general && !is_new) {
      throw std::invalid_argument("general piece " + std::to_string(id) + " ('" + pieces[id] +
                                  "') appears twice");
    }
    if (!is_general) {
      skip[place] = !is_new;
    }
  }
  return pieces;
}

class Merger {
 public:
  using Id = SegmentedWords::Id;

  Merger(const std::vector<std::string>& general, const std::vector<std::string>& candidates,
         const CountList& list, const MergeOptions& options)
      : options_(options),
        general_(general.size()),
        skip_(candidates.size()),
        pieces_(all_pieces(general, candidates, skip_)),
        words_(list, pieces_, general_, skip_, options.unk_id, options.prefix, options.max_chars) {
    result_.general_size = general_;
    for (std::size_t row = 0; options.reuse_unused && row < general_; ++row) {
      if (is_unused(general[row]) && words_.counts()[row] == 0) {
        free_rows_.push_back(static_cast<Id>(row));
      }
    }
  }

  Merged run(const Progress& progress) {
    recompute();
    result_.curve.push_back(point());
    if (options_.automatic) {
      result_.steps.push_back(point());
    }
    next_look_ = options_.automatic ? general_ + options_.interval : kNever;
    const std::size_t limit = options_.automatic ? options_.max_size : options_.size;
    // Each candidate fills a free row or adds one.
    const std::size_t most = std::min(limit - general_ + free_rows_.size(), skip_.size());
    const std::size_t interval = std::max<std::size_t>(1, skip_.size() / kProgressCalls);
    result_.end = options_.automatic ? MergeEnd::max_size : MergeEnd::size;
    for (std::size_t candidate = 0; used_ < limit - general_ + free_rows_.size(); ++candidate) {
      if (candidate == skip_.size()) {
        result_.end = MergeEnd::candidates;
        break;
      }
      if (candidate % interval == 0 && progress && !progress(used_, most)) {
        throw std::runtime_error("interrupted");
      }
      if (skip_[candidate]) {
        continue;
      }
      try_candidate(static_cast<Id>(general_ + candidate));
      if (rows() == next_look_ && look()) {
        result_.end = MergeEnd::threshold;
        break;
      }
    }
    finish();
    return std::move(result_);
  }

 private:
  static constexpr std::size_t kNever = std::numeric_limits<std::size_t>::max();

  std::int64_t count(Id id) const { return words_.counts()[static_cast<std::size_t>(id)]; }

  std::size_t rows() const { return general_ + (used_ > free_rows_.size() ? used_ - free_rows_.size() : 0); }

  MergePoint point() const {
    const auto tokens = static_cast<double>(words_.tokens());
    const double value = words_.tokens() > 0 ? sum_ - tokens * std::log(tokens) : 0;
    return {rows(), words_.tokens(), value, std::numeric_limits<double>::quiet_NaN()};
  }

  void try_candidate(Id id) {
    words_.activate(id);
    tried_.push_back(id);
    const bool is_used = count(id) > 0;
    dropped_.clear();
    if (is_used) {
      ++used_;
    } else {
      dropped_.push_back(id);
    }
    for (const auto& [piece, before] : words_.changes()) {
      if (static_cast<std::size_t>(piece) >= general_ && before > 0 && count(piece) == 0) {
        dropped_.push_back(piece);
        --used_;
      }
    }
    words_.deactivate(dropped_);
    for (const auto& [piece, before] : words_.changes()) {
      sum_ += term(count(piece)) - term(before);
    }
    if (is_used) {
      result_.curve.push_back(point());
    }
  }

  // Sums up afresh, so that no rounding error of many steps decides anything.
  void recompute() {
    Sum sum;
    for (const std::int64_t count : words_.counts()) {
      sum.add(term(count));
    }
    sum_ = sum.value();
  }

  bool look() {
    recompute();
    MergePoint now = point();
    const double before = result_.steps.back().log_likelihood;
    now.gain = before != 0 ? 1 - now.log_likelihood / before : 0;
    result_.steps.push_back(now);
    next_look_ += options_.interval;
    return now.gain <= options_.threshold;
  }

  void finish() {
    std::vector<std::string>& rows = result_.pieces;
    rows.assign(pieces_.begin(), pieces_.begin() + static_cast<std::ptrdiff_t>(general_));
    result_.counts.assign(words_.counts().begin(),
                          words_.counts().begin() + static_cast<std::ptrdiff_t>(general_));
    for (const Id id : tried_) {
      if (!words_.is_active(id)) {
        ++result_.passed_over;
        continue;
      }
      const bool reuse = result_.added.size() < free_rows_.size();
      const std::size_t row =
          reuse ? static_cast<std::size_t>(free_rows_[result_.added.size()]) : rows.size();
      if (!reuse) {
        rows.emplace_back();
        result_.counts.push_back(0);
      }
      rows[row] = pieces_[static_cast<std::size_t>(id)];
      result_.counts[row] = count(id);
      result_.added.push_back(static_cast<Id>(row));
    }
    pad();
  }

  void pad() {
    if (options_.pad_to_multiple == 0) {
      return;
    }
    // Names that the general vocabulary had are not used again, although their rows may have been.
    const std::unordered_set<std::string_view> known(pieces_.begin(), pieces_.end());
    for (std::size_t number = 0; result_.pieces.size() % options_.pad_to_multiple != 0; ++number) {
      std::string name = "[unused" + std::to_string(number) + "]";
      if (!known.contains(name)) {
        result_.pieces.push_back(std::move(name));
        result_.counts.push_back(0);
        ++result_.padding;
      }
    }
  }

  const MergeOptions& options_;
  std::size_t general_;
  std::vector<bool> skip_;
  std::vector<std::string> pieces_;
  SegmentedWords words_;
  std::vector<Id> free_rows_;
  std::vector<Id> tried_;
  std::vector<Id> dropped_;  // by the candidate at hand
  std::size_t used_ = 0;     // candidates in use
  std::size_t next_look_ = kNever;
  double sum_ = 0;  // of c ln(c) over all pieces
  Merged result_;
};

}  // namespace

Merged merge(const std::vector<std::string>& general, const std::vector<std::string>& candidates,
             const CountList& list, const MergeOptions& options, const Progress& progress) {
  check(general, candidates, options);
  return Merger(general, candidates, list, options).run(progress);
}

}  // namespace edad_fast::wordpiece
