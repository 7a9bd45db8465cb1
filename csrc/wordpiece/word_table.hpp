// Hash tables from word to count, for words of up to 16 bytes and for longer ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "word_cache.hpp"

namespace edad_fast::wordpiece {

// Open addressing, at most half full.
class ShortWordTable {
 public:
  struct Slot {
    ShortKey key{0, 0};
    std::int64_t count = 0;  // 0: free
  };

  ShortWordTable() : slots_(std::size_t{1} << kFirstBits) {}

  void prefetch(std::uint64_t hash) const {
#if defined(__GNUC__)
    __builtin_prefetch(&slots_[hash >> shift_]);
#else
    (void)hash;
#endif
  }

  void add(const ShortKey& key, std::uint64_t hash, std::int64_t count) {
    std::size_t place = hash >> shift_;
    while (true) {
      Slot& slot = slots_[place];
      if (slot.key == key) [[likely]] {
        slot.count += count;
        return;
      }
      if (slot.count == 0) {
        slot = {key, count};
        if (++size_ * 2 > slots_.size()) {
          grow();
        }
        return;
      }
      place = (place + 1) & (slots_.size() - 1);
    }
  }

  std::size_t size() const { return size_; }
  const std::vector<Slot>& slots() const { return slots_; }

 private:
  static constexpr unsigned kFirstBits = 16;

  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    --shift_;
    for (const Slot& slot : old) {
      if (slot.count != 0) {
        std::size_t place = slot.key.hash() >> shift_;
        while (slots_[place].count != 0) {
          place = (place + 1) & (slots_.size() - 1);
        }
        slots_[place] = slot;
      }
    }
  }

  std::vector<Slot> slots_;
  unsigned shift_ = 64 - kFirstBits;
  std::size_t size_ = 0;
};

class LongWordTable {
 public:
  struct Slot {
    std::uint64_t hash = 0;
    std::uint64_t begin = 0;
    std::uint32_t length = 0;  // 0: free
    std::int64_t count = 0;
  };

  LongWordTable() : slots_(std::size_t{1} << 12) {}

  void add(std::string_view word, std::int64_t count) {
    const std::uint64_t hash = hash_of(word);
    std::size_t place = hash & (slots_.size() - 1);
    while (slots_[place].length != 0) {
      Slot& slot = slots_[place];
      if (slot.hash == hash && text(slot) == word) {
        slot.count += count;
        return;
      }
      place = (place + 1) & (slots_.size() - 1);
    }
    slots_[place] = {hash, text_.size(), static_cast<std::uint32_t>(word.size()), count};
    text_ += word;
    if (++size_ * 2 > slots_.size()) {
      grow();
    }
  }

  std::size_t size() const { return size_; }
  const std::vector<Slot>& slots() const { return slots_; }
  std::string_view text(const Slot& slot) const { return {text_.data() + slot.begin, slot.length}; }

 private:
  static std::uint64_t hash_of(std::string_view word) {
    std::uint64_t hash = word.size();
    for (std::size_t i = 0; i < word.size(); i += 8) {
      std::uint64_t part = 0;
      std::memcpy(&part, word.data() + i, word.size() - i < 8 ? word.size() - i : 8);
      hash = (hash ^ part) * 0x9E3779B97F4A7C15U;
      hash ^= hash >> 32;
    }
    return hash;
  }

  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.length != 0) {
        std::size_t place = slot.hash & (slots_.size() - 1);
        while (slots_[place].length != 0) {
          place = (place + 1) & (slots_.size() - 1);
        }
        slots_[place] = slot;
      }
    }
  }

  std::string text_;
  std::vector<Slot> slots_;
  std::size_t size_ = 0;
};

}  // namespace edad_fast::wordpiece
