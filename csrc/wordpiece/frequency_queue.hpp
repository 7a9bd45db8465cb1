// The pair with the greatest count, ties by the smaller key.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <vector>

#include "pair_table.hpp"

namespace edad_fast::wordpiece {

// Counts mostly fall after a pair is made, so that entries are lazy: one with an outdated count is put back
// when it comes to the top. Pairs wait unsorted in one list for each number of binary digits of the count;
// only the greatest of these lists is made a heap.
class FrequencyQueue {
 public:
  static constexpr bool kNeedsEveryChange = false;

  FrequencyQueue(PairTable& pairs, const std::vector<std::int64_t>& /*frequencies*/,
                 std::int64_t min_frequency)
      : pairs_(pairs), min_frequency_(min_frequency) {}

  // The count of a pair rose.
  void changed(std::uint32_t index) {
    const Pair& pair = pairs_[index];
    if (pair.count < min_frequency_ || pair.blocked || pair.count <= pair.queued) {
      return;
    }
    // In a waiting list it will be looked at with its true count.
    if (digits(pair.count) > digits(pair.queued) || digits(pair.queued) >= active_) {
      push(index);
    }
  }

  void frequency_changed(Symbol /*symbol*/) {}

  // Returns the best pair and forgets it, or kNone.
  std::uint32_t pop() {
    for (;;) {
      while (heap_.empty()) {
        if (active_ == 0) {
          return PairTable::kNone;
        }
        activate(active_ - 1);
      }
      std::pop_heap(heap_.begin(), heap_.end());
      const Entry top = heap_.back();
      heap_.pop_back();
      Pair& pair = pairs_[top.index];
      if (pair.queued != top.count) {
        continue;  // a newer entry took its place
      }
      pair.queued = 0;
      if (pair.count == top.count) {
        return top.index;
      }
      if (pair.count >= min_frequency_) {
        push(top.index);
      }
    }
  }

 private:
  struct Entry {
    std::int64_t count;
    PairKey key;
    std::uint32_t index;

    bool operator<(const Entry& other) const {
      return count != other.count ? count < other.count : key > other.key;
    }
  };

  static std::size_t digits(std::int64_t count) {
    return static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(count)));
  }

  void push(std::uint32_t index) {
    Pair& pair = pairs_[index];
    pair.queued = pair.count;
    if (digits(pair.count) >= active_) {
      heap_.push_back({pair.count, pair.key, index});
      std::push_heap(heap_.begin(), heap_.end());
    } else {
      waiting_[digits(pair.count)].push_back(index);
    }
  }

  void activate(std::size_t count_digits) {
    active_ = count_digits;
    for (const std::uint32_t index : waiting_[active_]) {
      Pair& pair = pairs_[index];
      if (digits(pair.queued) != active_) {
        continue;  // it left this list for a higher one
      }
      if (pair.count < min_frequency_) {
        pair.queued = 0;
      } else if (digits(pair.count) < active_) {
        push(index);
      } else {
        pair.queued = pair.count;
        heap_.push_back({pair.count, pair.key, index});
      }
    }
    waiting_[active_].clear();
    std::make_heap(heap_.begin(), heap_.end());
  }

  PairTable& pairs_;
  std::int64_t min_frequency_;
  std::array<std::vector<std::uint32_t>, 64> waiting_;
  std::vector<Entry> heap_;
  std::size_t active_ = 64;  // counts of this many digits and more are in the heap
};

}  // namespace edad_fast::wordpiece
