// Strict decoding of UTF-8, one character at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace edad_fast::wordpiece {

constexpr std::uint32_t kNoCharacter = 0xFFFFFFFF;

// Returns the code point at text[position] and moves `position` behind it; kNoCharacter if there is no valid
// character (overlong forms, surrogates and code points above U+10FFFF are none). position < text.size().
inline std::uint32_t next_character(std::string_view text, std::size_t& position) {
  const auto byte = [&](std::size_t place) { return static_cast<unsigned char>(text[place]); };
  const std::uint32_t lead = byte(position);
  if (lead < 0x80) {
    ++position;
    return lead;
  }
  const std::size_t size = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  if (size == 0 || text.size() - position < size) {
    return kNoCharacter;
  }
  std::uint32_t code = lead & (0x7FU >> size);
  for (std::size_t i = 1; i < size; ++i) {
    const std::uint32_t next = byte(position + i);
    if ((next & 0xC0) != 0x80) {
      return kNoCharacter;
    }
    code = code << 6 | (next & 0x3F);
  }
  const bool overlong = (size == 3 && code < 0x800) || (size == 4 && code < 0x10000);
  if (overlong || (code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF) {
    return kNoCharacter;
  }
  position += size;
  return code;
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
