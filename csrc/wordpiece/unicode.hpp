// What Unicode says of characters, in two modes, and UTF-8. The tables: make_unicode_tables.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edad_fast::wordpiece {

// Whose characters: those of the `tokenizers` library, or those of Google's original Python code.
enum class Compat : std::uint8_t { hf, slow };

// Bits of a code point's properties.
enum Property : std::uint32_t {
  kRemovedProperty = 1,      // cleaning takes it out
  kCleanedProperty = 2,      // cleaning makes it a space
  kSpaceProperty = 4,        // separates words
  kPunctuationProperty = 8,  // a word of its own
  kChineseProperty = 16,     // a word of its own, if Chinese characters are handled
  kDroppedProperty = 32,     // an accent, to stripping
  kIgnorableProperty = 64,   // is looked through in search of a cased character (slow only)
  kCasedProperty = 128,      // and is not ignorable (slow only)
};
inline constexpr unsigned kCombiningClassShift = 8;  // the combining class is the rest

inline constexpr std::size_t kCodePoints = 0x110000;
inline constexpr char32_t kReplacementCharacter = 0xFFFD;

// The tables of one mode, decoded: for making faster ones, not for use per character.
class CharacterData {
 public:
  struct Run {
    char32_t begin;
    std::uint32_t properties;  // of all code points up to the next run
  };

  // Made at the first call; threads may call it.
  static const CharacterData& of(Compat compat);

  std::span<const Run> runs() const { return runs_; }
  std::uint32_t properties(char32_t code) const;
  // True if one of the code points first to last, Hangul aside, has a decomposition or a lower case.
  bool any_mapped(char32_t first, char32_t last) const;
  void append_decomposition(char32_t code, std::u32string& out) const;  // canonical, complete, marks in order
  void append_lower(char32_t code, std::u32string& out) const;          // context aside

  static bool is_hangul(char32_t code) { return code >= 0xAC00 && code <= 0xD7A3; }

 private:
  explicit CharacterData(Compat compat);

  void add_decompositions(std::span<const std::uint32_t> numbers);
  void add_lower(std::span<const std::uint32_t> numbers);

  struct Decomposition {
    char32_t code;
    std::uint32_t begin, count;  // in parts_
  };

  std::vector<Run> runs_;
  std::vector<Decomposition> decompositions_;
  std::u32string parts_;
  std::vector<std::pair<char32_t, char32_t>> lower_;
};

// The version of the tables' source: of `tokenizers`, or of Unicode.
const char* table_version(Compat compat);

// One code point, or one maximal invalid piece, which counts as U+FFFD.
struct Utf8Unit {
  char32_t code;
  std::uint32_t length;  // bytes taken
};

// Reads the unit at `at`, which must lie before `end`.
Utf8Unit read_utf8(const unsigned char* at, const unsigned char* end);

// Where the unit that ends at `at` begins; `at` is a unit's end and lies behind `begin`.
const unsigned char* previous_utf8(const unsigned char* begin, const unsigned char* at);

// A character's bytes, the first one lowest, and their number.
struct Utf8Bytes {
  std::uint32_t bytes;
  std::uint32_t length;
};

constexpr Utf8Bytes to_utf8(char32_t code) {
  const auto tail = [code](int shift) { return 0x80U | ((code >> shift) & 0x3FU); };
  if (code < 0x80) {
    return {code, 1};
  }
  if (code < 0x800) {
    return {(0xC0U | (code >> 6)) | tail(0) << 8, 2};
  }
  if (code < 0x10000) {
    return {(0xE0U | (code >> 12)) | tail(6) << 8 | tail(0) << 16, 3};
  }
  return {(0xF0U | (code >> 18)) | tail(12) << 8 | tail(6) << 16 | tail(0) << 24, 4};
}

inline Utf8Unit read_utf8(const unsigned char* at, const unsigned char* end) {
  const std::uint32_t lead = at[0];
  if (lead < 0x80) {
    return {lead, 1};
  }
  const auto left = static_cast<std::size_t>(end - at);
  // Byte i of the unit, or 0, which continues nothing, behind the end.
  const auto byte = [&](std::size_t i) -> std::uint32_t { return i < left ? at[i] : 0; };
  const auto continues = [](std::uint32_t value) { return (value & 0xC0) == 0x80; };
  const std::uint32_t second = byte(1);
  if (!continues(second) || lead < 0xC2 || lead > 0xF4) {
    return {kReplacementCharacter, 1};
  }
  if (lead < 0xE0) {
    return {(lead & 0x1F) << 6 | (second & 0x3F), 2};
  }
  const std::uint32_t third = byte(2);
  if (lead < 0xF0) {
    // No overlong forms, no surrogates.
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F)) {
      return {kReplacementCharacter, 1};
    }
    if (!continues(third)) {
      return {kReplacementCharacter, 2};
    }
    return {(lead & 0xF) << 12 | (second & 0x3F) << 6 | (third & 0x3F), 3};
  }
  if ((lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F)) {
    return {kReplacementCharacter, 1};
  }
  if (!continues(third)) {
    return {kReplacementCharacter, 2};
  }
  const std::uint32_t fourth = byte(3);
  if (!continues(fourth)) {
    return {kReplacementCharacter, 3};
  }
  return {(lead & 7) << 18 | (second & 0x3F) << 12 | (third & 0x3F) << 6 | (fourth & 0x3F), 4};
}

}  // namespace edad_fast::wordpiece
