// Strict decoding of UTF-8, one character at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "unicode.hpp"

namespace edad_fast::wordpiece {

constexpr std::uint32_t kNoCharacter = 0xFFFFFFFF;

// Returns the code point at text[position] and moves `position` behind it; kNoCharacter if there is no valid
// character (overlong forms, surrogates and code points above U+10FFFF are none). position < text.size().
inline std::uint32_t next_character(std::string_view text, std::size_t& position) {
  const auto* const begin = reinterpret_cast<const unsigned char*>(text.data());
  const Utf8Unit unit = read_utf8(begin + position, begin + text.size());
  // U+FFFD stands for what is invalid, unless it is what is written there: EF BF BD.
  if (unit.code == kReplacementCharacter && !(unit.length == 3 && begin[position] == 0xEF)) {
    return kNoCharacter;
  }
  position += unit.length;
  return unit.code;
}

inline bool is_valid_utf8(std::string_view text) {
  for (std::size_t position = 0; position < text.size();) {
    if (next_character(text, position) == kNoCharacter) {
      return false;
    }
  }
  return true;
}

}  // namespace edad_fast::wordpiece
