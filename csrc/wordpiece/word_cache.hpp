// The ids of words met before. A word of up to 16 bytes is two integers, and a look-up two comparisons.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace edad_fast::wordpiece {

// A word of 1 to 16 bytes without NUL, padded with NUL.
struct ShortKey {
  std::uint64_t low, high;

  // `bytes` has 16 readable bytes.
  static ShortKey load(const unsigned char* bytes, std::size_t length) {
    ShortKey key;
    std::memcpy(&key.low, bytes, 8);
    std::memcpy(&key.high, bytes + 8, 8);
    key.low &= kMasks[length].first;
    key.high &= kMasks[length].second;
    return key;
  }

  // For caches: only the upper bits are well mixed, and words can be made to fall together. See WordHash.
  std::uint64_t hash() const { return low * 0x9E3779B97F4A7C15U + high * 0xC2B2AE3D27D4EB4FU; }

  bool operator==(const ShortKey& other) const { return ((low ^ other.low) | (high ^ other.high)) == 0; }

 private:
  static constexpr std::array<std::pair<std::uint64_t, std::uint64_t>, 17> kMasks = [] {
    std::array<std::pair<std::uint64_t, std::uint64_t>, 17> masks{};
    for (unsigned length = 0; length <= 16; ++length) {
      const auto ones = [](unsigned bytes) {
        return bytes >= 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << 8 * bytes) - 1;
      };
      masks[length] = {ones(length), length > 8 ? ones(length - 8) : 0};
    }
    return masks;
  }();
};

class WordCache {
 public:
  static constexpr std::size_t kShortBytes = 16;
  static constexpr std::size_t kShortIds = 3;
  static constexpr std::size_t kLongBytes = 32;
  static constexpr std::size_t kLongIds = 7;

  struct Slot {
    ShortKey key{0, 0};
    std::int32_t ids[kShortIds] = {};
    std::int32_t count = 0;
  };

  WordCache() : sets_(kSets), longs_(kLongSlots) {}

  // The slot of a short word, or null. A found word moves to the place where it is found sooner.
  const Slot* find(const ShortKey& key) {
    Set& set = sets_[key.hash() >> (64 - kSetBits)];
    if (set.first.key == key) [[likely]] {
      return &set.first;
    }
    if (set.second.key == key) {
      std::swap(set.first, set.second);
      return &set.first;
    }
    return nullptr;
  }

  // Replaces the one of two that was not found last. At most kShortIds ids.
  void insert(const ShortKey& key, const std::int32_t* ids, std::size_t count) {
    Set& set = sets_[key.hash() >> (64 - kSetBits)];
    fill(set.second, key, ids, count);
  }

  // Inserts unless the places are taken.
  void prefill(const ShortKey& key, std::int32_t id) {
    Set& set = sets_[key.hash() >> (64 - kSetBits)];
    if (set.first.count == 0) {
      fill(set.first, key, &id, 1);
    } else if (set.second.count == 0) {
      fill(set.second, key, &id, 1);
    }
  }

  // A word of up to kLongBytes bytes: its ids and their number, or null and 0. `bytes` has kLongBytes
  // readable ones.
  const std::int32_t* find_long(const unsigned char* bytes, std::size_t length, std::size_t& count) const {
    const LongKey key = LongKey::load(bytes, length);
    const LongSlot& slot = longs_[key.place()];
    const bool found = slot.key.words == key.words;
    count = found ? slot.count : 0;
    return found ? slot.ids : nullptr;
  }

  void insert_long(const unsigned char* bytes, std::size_t length, const std::int32_t* ids,
                   std::size_t count) {
    const LongKey key = LongKey::load(bytes, length);
    LongSlot& slot = longs_[key.place()];
    slot.key = key;
    slot.count = static_cast<std::uint32_t>(count);
    std::memcpy(slot.ids, ids, count * sizeof(*ids));
  }

 private:
  static constexpr unsigned kSetBits = 15;
  static constexpr std::size_t kSets = std::size_t{1} << kSetBits;
  static constexpr unsigned kLongBits = 13;
  static constexpr std::size_t kLongSlots = std::size_t{1} << kLongBits;

  struct alignas(64) Set {
    Slot first, second;
  };

  struct LongKey {
    std::array<std::uint64_t, 4> words;

    static LongKey load(const unsigned char* bytes, std::size_t length) {
      const std::size_t first = length < 16 ? length : 16;
      const ShortKey begin = ShortKey::load(bytes, first);
      const ShortKey end = ShortKey::load(bytes + 16, length - first);
      return {{begin.low, begin.high, end.low, end.high}};
    }

    std::size_t place() const {
      const std::uint64_t hash = (words[0] * 0x9E3779B97F4A7C15U + words[1] * 0xC2B2AE3D27D4EB4FU) ^
                                 (words[2] * 0x165667B19E3779F9U + words[3] * 0xD6E8FEB86659FD93U);
      return static_cast<std::size_t>(hash >> (64 - kLongBits));
    }
  };

  struct alignas(64) LongSlot {
    LongKey key{};
    std::uint32_t count = 0;
    std::int32_t ids[kLongIds] = {};
  };

  static void fill(Slot& slot, const ShortKey& key, const std::int32_t* ids, std::size_t count) {
    slot.key = key;
    slot.count = static_cast<std::int32_t>(count);
    for (std::size_t i = 0; i < count; ++i) {
      slot.ids[i] = ids[i];
    }
  }

  std::vector<Set> sets_;
  std::vector<LongSlot> longs_;
};

}  // namespace edad_fast::wordpiece
