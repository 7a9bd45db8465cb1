// Hash tables from word to count, for words of up to 16 bytes and for longer ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "word_cache.hpp"

namespace edad_fast::wordpiece {

// A hash with a seed of the process's own, so that no text can be made to fill the tables with collisions.
// Results never depend on it.
class WordHash {
 public:
  static std::uint64_t of(const ShortKey& key) {
    const WordHash& hash = instance();
    return mix(key.low ^ hash.first_, key.high ^ hash.second_);
  }

  static std::uint64_t of(std::string_view word) {
    const WordHash& hash = instance();
    std::uint64_t value = word.size() ^ hash.first_;
    for (std::size_t i = 0; i < word.size(); i += 8) {
      std::uint64_t part = 0;
      std::memcpy(&part, word.data() + i, word.size() - i < 8 ? word.size() - i : 8);
      value = mix(value ^ part, hash.second_);
    }
    return value;
  }

 private:
  WordHash() {
    std::random_device random;
    const auto odd = [&] { return (std::uint64_t{random()} << 32 | random()) | 1; };
    first_ = odd();
    second_ = odd();
  }

  static const WordHash& instance() {
    static const WordHash hash;
    return hash;
  }

  // Both halves of the 128-bit product, one upon the other.
  static std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
    const std::uint64_t a_low = a & 0xFFFFFFFF, a_high = a >> 32, b_low = b & 0xFFFFFFFF, b_high = b >> 32;
    const std::uint64_t middle = a_high * b_low + (a_low * b_low >> 32);
    const std::uint64_t middle_low = (middle & 0xFFFFFFFF) + a_low * b_high;
    return (a_high * b_high + (middle >> 32) + (middle_low >> 32)) ^ (a * b);
  }

  std::uint64_t first_, second_;
};

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
        std::size_t place = WordHash::of(slot.key) >> shift_;
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
    const std::uint64_t hash = WordHash::of(word);
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
