// Pairs of neighbouring symbols: how often they occur and in which words.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

namespace edad_fast::wordpiece {

using Symbol = std::uint32_t;   // index of a piece
using PairKey = std::uint64_t;  // left symbol above, right symbol below: ordered as ties are broken

inline PairKey pair_key(Symbol left, Symbol right) { return PairKey{left} << 32 | right; }
inline Symbol left_of(PairKey key) { return static_cast<Symbol>(key >> 32); }
inline Symbol right_of(PairKey key) { return static_cast<Symbol>(key); }

struct Pair {
  PairKey key = 0;
  std::int64_t count = 0;
  std::int64_t queued = 0;   // for the queue
  std::uint32_t places = 0;  // first chunk in the arena; 0: none
  bool blocked = false;      // its piece would be too long: never merged
};

// Open addressing over records that keep their index.
class PairTable {
 public:
  static constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

  PairTable() : slots_(std::size_t{1} << kFirstBits), shift_(64 - kFirstBits), arena_(1) {}

  Pair& operator[](std::uint32_t index) { return pairs_[index]; }
  const Pair& operator[](std::uint32_t index) const { return pairs_[index]; }
  std::size_t size() const { return pairs_.size(); }

  // A look-up of `key` soon after this finds its slot in the cache.
  void prefetch(PairKey key) const {
#if defined(__GNUC__)
    __builtin_prefetch(&slots_[hash(key) >> shift_]);
#else
    static_cast<void>(key);
#endif
  }

  std::uint32_t find(PairKey key) const {
    const std::uint64_t hashed = hash(key);
    for (std::size_t slot = hashed >> shift_;; slot = (slot + 1) & (slots_.size() - 1)) {
      const Slot found = slots_[slot];
      if (found.next_index == 0) {
        return kNone;
      }
      if (found.tag == static_cast<std::uint32_t>(hashed) && pairs_[found.next_index - 1].key == key) {
        return found.next_index - 1;
      }
    }
  }

  std::uint32_t find_or_add(PairKey key) {
    const std::uint64_t hashed = hash(key);
    std::size_t slot = hashed >> shift_;
    for (; slots_[slot].next_index != 0; slot = (slot + 1) & (slots_.size() - 1)) {
      const Slot found = slots_[slot];
      if (found.tag == static_cast<std::uint32_t>(hashed) && pairs_[found.next_index - 1].key == key) {
        return found.next_index - 1;
      }
    }
    if (pairs_.size() >= kNone - 1) {
      throw std::runtime_error("too many pairs of symbols to learn from; give fewer words");
    }
    pairs_.emplace_back().key = key;
    const auto next_index = static_cast<std::uint32_t>(pairs_.size());
    slots_[slot] = {static_cast<std::uint32_t>(hashed), next_index};
    if (2 * pairs_.size() > slots_.size()) {
      grow();
    }
    return next_index - 1;
  }

  // Makes room for `count` more words of a pair and returns the index of the first, to be filled by
  // set_word().
  std::uint32_t add_places(std::uint32_t index, std::uint32_t count) {
    const std::size_t begin = arena_.size();
    if (begin + count + 2 > std::numeric_limits<std::uint32_t>::max()) {
      throw std::runtime_error("too many words to learn from: their pairs need more than 2**32 places");
    }
    arena_.resize(begin + count + 2);
    arena_[begin] = pairs_[index].places;
    arena_[begin + 1] = count;
    pairs_[index].places = static_cast<std::uint32_t>(begin);
    return static_cast<std::uint32_t>(begin + 2);
  }

  void set_word(std::uint32_t place, std::uint32_t word) { arena_[place] = word; }

  // Takes the words of a pair away and hands them to `use` in chunks. The pair may have left some of them.
  template <typename Use>
  void take_places(std::uint32_t index, Use&& use) {
    std::uint32_t chunk = pairs_[index].places;
    pairs_[index].places = 0;
    while (chunk != 0) {
      use(std::span<const std::uint32_t>(arena_.data() + chunk + 2, arena_[chunk + 1]));
      chunk = arena_[chunk];
    }
  }

 private:
  static constexpr int kFirstBits = 16;

  struct Slot {
    std::uint32_t tag = 0;
    std::uint32_t next_index = 0;  // index + 1; 0: free
  };

  // The upper bits choose the slot, the lower ones are the tag.
  static std::uint64_t hash(PairKey key) {
    key *= 0x9E3779B97F4A7C15U;
    return (key ^ key >> 32) * 0xD6E8FEB86659FD93U;
  }

  void grow() {
    std::vector<Slot> slots(2 * slots_.size());
    --shift_;
    for (std::uint32_t index = 0; index < pairs_.size(); ++index) {
      const std::uint64_t hashed = hash(pairs_[index].key);
      std::size_t slot = hashed >> shift_;
      while (slots[slot].next_index != 0) {
        slot = (slot + 1) & (slots.size() - 1);
      }
      slots[slot] = {static_cast<std::uint32_t>(hashed), index + 1};
    }
    slots_.swap(slots);
  }

  std::vector<Slot> slots_;
  int shift_;
  std::vector<Pair> pairs_;
  std::vector<std::uint32_t> arena_;  // chunks: next chunk, size, words; index 0 stands for none
};

}  // namespace edad_fast::wordpiece
