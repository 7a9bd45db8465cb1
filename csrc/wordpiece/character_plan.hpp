// What BERT's normalisation and word splitting do to every code point under given options, as one table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "unicode.hpp"

namespace edad_fast::wordpiece {

struct NormalizerOptions {
  Compat compat = Compat::hf;
  bool clean_text = true;
  bool handle_chinese_chars = true;
  bool strip_accents = true;
  bool lowercase = true;
};

enum class Action : std::uint32_t {
  copy,     // a letter of a word, as it is
  map,      // a letter of a word, turned into letter_bytes()
  alone,    // a word of its own, as it is
  space,    // ends a word
  removed,  // as if it were not there
  dropped,  // likewise, but marks before and after it do not meet
  hangul,   // a syllable: its two or three letters
  list,     // parts()
  sigma,    // the capital one: its lower case depends on what is around it
  marks,    // parts() with combining classes, to be sorted with those of the characters that follow
};

enum class Role : std::uint8_t { letter, alone, space, none };

// A character of what one character turns into.
struct Part {
  Utf8Bytes utf8;
  Role role;  // none: dropped
  std::uint8_t combining_class;
};

class CharacterPlan {
 public:
  class Entry {
   public:
    explicit Entry(std::uint32_t value) : value_(value) {}

    Action action() const { return static_cast<Action>(value_ & 15); }
    // Of Action::map, at most three bytes.
    Utf8Bytes letter_bytes() const { return {value_ >> 8, (value_ >> 4) & 3}; }
    // Of Action::marks: a part is kept; the first part is no mark.
    bool keeps_marks() const { return (value_ & kKeeps) != 0; }
    bool starts() const { return (value_ & kStarts) != 0; }
    // For the context of a sigma.
    bool ignorable() const { return (value_ & kIgnorable) != 0; }
    bool cased() const { return (value_ & kCased) != 0; }

   private:
    friend class CharacterPlan;
    // Bits 0-3: the action. 4-5: bytes of a letter, or what is said of marks. 6-7: case. From 8 on: a
    // letter's bytes, or 4 bits of the number of parts and 20 of their place.
    static constexpr std::uint32_t kKeeps = 1U << 4, kStarts = 1U << 5, kIgnorable = 1U << 6,
                                   kCased = 1U << 7;

    std::uint32_t value_;
  };

  // The plan is made when first asked for and kept; threads may call it.
  static const CharacterPlan& of(const NormalizerOptions& options);

  Entry entry(char32_t code) const {
    return Entry(blocks_[(static_cast<std::size_t>(block_of_[code >> kBlockBits]) << kBlockBits) |
                         (code & kBlockMask)]);
  }
  std::span<const Part> parts(Entry entry) const {
    return {parts_.data() + (entry.value_ >> 12), (entry.value_ >> 8) & 15};
  }
  // The letter that an ASCII letter or digit turns into; 0 for all other bytes.
  const unsigned char* ascii_letters() const { return ascii_letters_; }

 private:
  class Maker;

  // A block is what the last byte of UTF-8 selects from.
  static constexpr std::uint32_t kBlockBits = 6;
  static constexpr std::uint32_t kBlockMask = (1U << kBlockBits) - 1;

  explicit CharacterPlan(const NormalizerOptions& options);

  std::vector<std::uint16_t> block_of_;
  std::vector<std::uint32_t> blocks_;
  std::vector<Part> parts_;
  unsigned char ascii_letters_[256] = {};
};

}  // namespace edad_fast::wordpiece
