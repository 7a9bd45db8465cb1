#include "likelihood_queue.hpp"

#include <array>
#include <utility>

namespace edad_fast::wordpiece {
namespace {

// a * b * c of numbers below 2^63: three 64-bit digits, the highest first, as std::array compares them.
using Product = std::array<std::uint64_t, 3>;

std::pair<std::uint64_t, std::uint64_t> multiply(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t a_low = a & 0xFFFFFFFF, a_high = a >> 32, b_low = b & 0xFFFFFFFF, b_high = b >> 32;
  const std::uint64_t low = a_low * b_low, middle = a_high * b_low + (low >> 32);
  const std::uint64_t other = a_low * b_high + (middle & 0xFFFFFFFF);
  return {a_high * b_high + (middle >> 32) + (other >> 32), other << 32 | (low & 0xFFFFFFFF)};
}

Product product(std::int64_t a, std::int64_t b, std::int64_t c) {
  const auto [high, low] = multiply(static_cast<std::uint64_t>(a), static_cast<std::uint64_t>(b));
  const auto [low_carry, lowest] = multiply(low, static_cast<std::uint64_t>(c));
  auto [highest, middle] = multiply(high, static_cast<std::uint64_t>(c));
  middle += low_carry;
  highest += middle < low_carry ? 1 : 0;
  return {highest, middle, lowest};
}

// Sign of a1 a2 a3 - b1 b2 b3. Floating point decides unless the two are closer than its rounding errors.
int compare(std::array<std::int64_t, 3> a, std::array<std::int64_t, 3> b) {
  const double first = static_cast<double>(a[0]) * static_cast<double>(a[1]) * static_cast<double>(a[2]);
  const double second = static_cast<double>(b[0]) * static_cast<double>(b[1]) * static_cast<double>(b[2]);
  constexpr double kMargin = 1 + 1e-14;
  if (first > second * kMargin) {
    return 1;
  }
  if (second > first * kMargin) {
    return -1;
  }
  const Product one = product(a[0], a[1], a[2]);
  const Product two = product(b[0], b[1], b[2]);
  return one < two ? -1 : one > two ? 1 : 0;
}

// Moves the item at `place` of a binary heap to where it belongs; `moved(item, place)` hears of every move.
template <typename Before, typename Moved>
void restore(std::vector<std::uint32_t>& heap, std::size_t place, Before before, Moved moved) {
  const std::uint32_t item = heap[place];
  while (place > 0 && before(item, heap[(place - 1) / 2])) {
    heap[place] = heap[(place - 1) / 2];
    moved(heap[place], place);
    place = (place - 1) / 2;
  }
  for (;;) {
    std::size_t child = 2 * place + 1;
    if (child >= heap.size()) {
      break;
    }
    if (child + 1 < heap.size() && before(heap[child + 1], heap[child])) {
      ++child;
    }
    if (!before(heap[child], item)) {
      break;
    }
    heap[place] = heap[child];
    moved(heap[place], place);
    place = child;
  }
  heap[place] = item;
  moved(item, place);
}

template <typename Before, typename Moved>
void remove(std::vector<std::uint32_t>& heap, std::size_t place, Before before, Moved moved) {
  heap[place] = heap.back();
  heap.pop_back();
  if (place < heap.size()) {
    restore(heap, place, before, moved);
  }
}

}  // namespace

Symbol LikelihoodQueue::other_symbol(std::uint32_t index) const {
  const PairKey key = pairs_[index].key;
  return waiting_[index].owner == left_of(key) ? right_of(key) : left_of(key);
}

bool LikelihoodQueue::pair_before(std::uint32_t first, std::uint32_t second) const {
  const Waiting& one = waiting_[first];
  const Waiting& two = waiting_[second];
  const int sign = compare({one.count, two.other_frequency, 1}, {two.count, one.other_frequency, 1});
  return sign != 0 ? sign > 0 : pairs_[first].key < pairs_[second].key;
}

bool LikelihoodQueue::owner_before(Symbol first, Symbol second) const {
  const Owner& one = owners_[first];
  const Owner& two = owners_[second];
  const int sign = compare({one.best_count, two.best_other, two.frequency},
                           {two.best_count, one.best_other, one.frequency});
  return sign != 0 ? sign > 0 : pairs_[one.best].key < pairs_[two.best].key;
}

// Puts a pair where its present count and frequency belong in its owner's heap, or takes it out.
void LikelihoodQueue::update_pair(std::uint32_t index, bool wanted) {
  Waiting& waiting = waiting_[index];
  std::vector<std::uint32_t>& heap = owners_[waiting.owner].heap;
  const auto before = [this](std::uint32_t one, std::uint32_t two) { return pair_before(one, two); };
  const auto moved = [this](std::uint32_t item, std::size_t place) {
    waiting_[item].place = static_cast<std::uint32_t>(place);
  };
  if (!wanted) {
    if (waiting.place != kNone) {
      remove(heap, waiting.place, before, moved);
      waiting.place = kNone;
      update_owner(waiting.owner);
    }
    return;
  }
  waiting.count = pairs_[index].count;
  waiting.other_frequency = frequencies_[other_symbol(index)];
  if (waiting.place == kNone) {
    waiting.place = static_cast<std::uint32_t>(heap.size());
    heap.push_back(index);
  }
  restore(heap, waiting.place, before, moved);
  update_owner(waiting.owner);
}

void LikelihoodQueue::update_owner(Symbol symbol) {
  Owner& owner = owners_[symbol];
  const auto before = [this](Symbol one, Symbol two) { return owner_before(one, two); };
  const auto moved = [this](Symbol item, std::size_t place) {
    owners_[item].place = static_cast<std::uint32_t>(place);
  };
  if (owner.heap.empty()) {
    if (owner.place != kNone) {
      remove(order_, owner.place, before, moved);
      owner.place = kNone;
    }
    return;
  }
  const Waiting& best = waiting_[owner.heap.front()];
  const std::int64_t frequency = frequencies_[symbol];
  if (owner.place != kNone && owner.best == owner.heap.front() && owner.best_count == best.count &&
      owner.best_other == best.other_frequency && owner.frequency == frequency) {
    return;
  }
  owner.best = owner.heap.front();
  owner.best_count = best.count;
  owner.best_other = best.other_frequency;
  owner.frequency = frequency;
  if (owner.place == kNone) {
    owner.place = static_cast<std::uint32_t>(order_.size());
    order_.push_back(symbol);
  }
  restore(order_, owner.place, before, moved);
}

void LikelihoodQueue::changed(std::uint32_t index) {
  const Pair& pair = pairs_[index];
  const bool wanted = pair.count >= min_frequency_ && !pair.blocked;
  waiting_.resize(pairs_.size());
  owners_.resize(frequencies_.size());
  Waiting& waiting = waiting_[index];
  if (waiting.owner == kNone) {
    if (!wanted) {
      return;
    }
    const Symbol left = left_of(pair.key);
    const Symbol right = right_of(pair.key);
    waiting.owner = frequencies_[left] >= frequencies_[right] ? left : right;
    owners_[other_symbol(index)].elsewhere.push_back(index);
  }
  update_pair(index, wanted);
}

void LikelihoodQueue::frequency_changed(Symbol symbol) {
  owners_.resize(frequencies_.size());
  update_owner(symbol);
  for (const std::uint32_t index : owners_[symbol].elsewhere) {
    if (waiting_[index].place != kNone) {
      update_pair(index, true);
    }
  }
}

std::uint32_t LikelihoodQueue::pop() const { return order_.empty() ? kNone : owners_[order_.front()].best; }

}  // namespace edad_fast::wordpiece
