#include "batches/masking.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "batches/hashing.hpp"

namespace edad_fast::batches {
namespace {

constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();

// How many of n ordinary tokens are chosen: round half to even, as numpy.rint does.
std::size_t budget_of(double probability, std::size_t n) {
  return n == 0
             ? 0
             : static_cast<std::size_t>(std::max(1.0, std::nearbyint(probability * static_cast<double>(n))));
}

}  // namespace

Masker::Masker(const MaskOptions& options, std::size_t seq_len)
    : options_(options), keys_(seq_len), few_(seq_len), chosen_(seq_len) {
  if (seq_len < 1 || seq_len > (std::size_t{1} << 24)) {
    throw std::invalid_argument("seq_len is " + std::to_string(seq_len));
  }
  if (!options.continuation.empty() && options.continuation.size() != options.special.size()) {
    throw std::invalid_argument("continuation has " + std::to_string(options.continuation.size()) +
                                " elements and special " + std::to_string(options.special.size()));
  }
  if (!(options.probability >= 0.0 && options.probability <= 1.0)) {
    throw std::invalid_argument("probability is " + std::to_string(options.probability));
  }
  const bool all_special = std::ranges::all_of(options.special, [](std::uint8_t flag) { return flag != 0; });
  if (options.replacements.empty() && !all_special) {
    throw std::invalid_argument("replacements is empty");
  }
  bits_ = std::max(1U, static_cast<unsigned>(std::bit_width(seq_len - 1)));
  words_.reserve(seq_len);
}

// The budget-th smallest of keys_. Keys are even over the 64-bit numbers, so that all but few of those too
// large are seen at a glance; where the glance leaves too few, all are looked at.
std::uint64_t Masker::threshold(std::size_t budget, std::size_t ordinary) {
  const auto wanted = static_cast<double>(budget);
  const double share = (wanted + 3.0 * std::sqrt(wanted) + 2.0) / static_cast<double>(ordinary);
  std::size_t n_few = 0;
  if (share < 0.75) {
    const auto limit = static_cast<std::uint64_t>(share * 0x1p64);
    for (const std::uint64_t key : keys_) {
      few_[n_few] = key;
      n_few += key < limit;
    }
  }
  if (n_few < budget) {
    std::ranges::copy(keys_, few_.begin());
    n_few = keys_.size();
  }
  const auto last = few_.begin() + static_cast<std::ptrdiff_t>(budget - 1);
  std::nth_element(few_.begin(), last, few_.begin() + static_cast<std::ptrdiff_t>(n_few));
  return *last;
}

std::size_t Masker::choose_tokens(const std::int64_t* ids, std::uint64_t key, std::int64_t* columns) {
  // Random bits of the token, then its column in place of its word's, then its column.
  const std::uint64_t random = ~((std::uint64_t{1} << (2 * bits_)) - 1);
  const std::uint64_t both = (std::uint64_t{1} << bits_) | 1;
  const std::uint8_t* special = options_.special.data();
  std::size_t ordinary = 0;
  for (std::size_t column = 0; column < keys_.size(); ++column) {
    key += kGolden;
    const std::uint64_t never = special[ids[column]] != 0;
    keys_[column] = (((mix(key) & random) | (column * both)) | (0 - never));
    ordinary += 1 - never;
  }
  const std::size_t budget = budget_of(options_.probability, ordinary);
  if (budget == 0) {
    return 0;
  }
  const std::uint64_t last = threshold(budget, ordinary);
  std::size_t count = 0;
  for (std::size_t column = 0; column < keys_.size(); ++column) {
    columns[count] = static_cast<std::int64_t>(column);
    count += keys_[column] <= last;
  }
  return count;
}

std::size_t Masker::choose_words(const std::int64_t* ids, std::uint64_t key, std::int64_t* columns) {
  const std::uint64_t random = ~((std::uint64_t{1} << (2 * bits_)) - 1);
  words_.clear();
  std::size_t ordinary = 0;
  bool inside = false;
  for (std::size_t column = 0; column < keys_.size(); ++column) {
    const auto id = static_cast<std::size_t>(ids[column]);
    if (options_.special[id] != 0) {
      inside = false;
      continue;
    }
    ++ordinary;
    if (inside && options_.continuation[id] != 0) {
      ++words_.back().size;
    } else {
      const std::uint64_t bits = draw(key, static_cast<std::int64_t>(column)) & random;
      words_.push_back({bits | (column << bits_), column, 1});
    }
    inside = true;
  }
  // No word is looked at once `budget` tokens came before it, and each word has one or more.
  const std::size_t budget = budget_of(options_.probability, ordinary);
  const auto middle = words_.begin() + static_cast<std::ptrdiff_t>(std::min(budget, words_.size()));
  std::partial_sort(words_.begin(), middle, words_.end(),
                    [](const Word& a, const Word& b) { return a.key < b.key; });
  std::ranges::fill(chosen_, std::uint8_t{0});
  std::size_t before = 0;
  for (auto word = words_.begin(); word != middle; ++word) {
    if (before == 0 || 2 * before + word->size <= 2 * budget) {
      std::fill_n(chosen_.begin() + static_cast<std::ptrdiff_t>(word->start), word->size, std::uint8_t{1});
    }
    before += word->size;
  }
  std::size_t count = 0;
  for (std::size_t column = 0; column < chosen_.size(); ++column) {
    columns[count] = static_cast<std::int64_t>(column);
    count += chosen_[column];
  }
  return count;
}

std::size_t Masker::mask_row(std::int64_t* ids, std::int64_t epoch, std::int64_t row, std::int64_t first,
                             std::int64_t* positions, std::int64_t* labels) {
  if (options_.probability == 0.0) {
    return 0;
  }
  const std::uint64_t key = row_key(options_.seed, Purpose::mask, epoch, row);
  const std::size_t count =
      options_.continuation.empty() ? choose_tokens(ids, key, positions) : choose_words(ids, key, positions);
  const std::uint64_t action_key = row_key(options_.seed, Purpose::action, epoch, row);
  const std::uint64_t replacement_key = row_key(options_.seed, Purpose::replacement, epoch, row);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t column = positions[i];
    labels[i] = ids[column];
    const double action = unit(draw(action_key, column));
    if (action < 0.8) {
      ids[column] = options_.mask_id;
    } else if (action < 0.9) {
      ids[column] = options_.replacements[draw(replacement_key, column) % options_.replacements.size()];
    }
    positions[i] = first + column;
  }
  return count;
}

}  // namespace edad_fast::batches
