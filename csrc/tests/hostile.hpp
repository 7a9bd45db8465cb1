// Random text for the tests: ordinary words and whatever else Unicode has, from a seed.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace edad_fast::tests {

inline void append_utf8(std::string& out, char32_t code) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

// A code point of a block that has given trouble before, or any other; no half of a surrogate pair.
inline char32_t hostile_code(std::mt19937_64& random) {
  static constexpr char32_t kBlocks[][2] = {
      {0x00, 0x20},       {0x21, 0x7E},       {0x7F, 0xBF},       {0xC0, 0x24F},      {0x300, 0x36F},
      {0x370, 0x3FF},     {0x400, 0x4FF},     {0x590, 0x6FF},     {0x900, 0x97F},     {0xE00, 0xE7F},
      {0x1100, 0x11FF},   {0x1E00, 0x1FFF},   {0x2000, 0x206F},   {0x2160, 0x217F},   {0x3040, 0x30FF},
      {0x3400, 0x3402},   {0x4DB0, 0x4E02},   {0x9FF0, 0xA000},   {0xAC00, 0xD7A3},   {0xE000, 0xE002},
      {0xF900, 0xFAFF},   {0xFB1D, 0xFB4F},   {0xFE00, 0xFE0F},   {0xFF00, 0xFFEF},   {0xFFF9, 0xFFFF},
      {0x10400, 0x10450}, {0x11080, 0x110CD}, {0x1D15E, 0x1D1E8}, {0x1D400, 0x1D450}, {0x1F1E6, 0x1F64F},
      {0x1FA70, 0x1FAFF}, {0x2A6DE, 0x2A702}, {0x2B738, 0x2B742}, {0x2B81E, 0x2B822}, {0x2B91E, 0x2B922},
      {0x2CEAE, 0x2CEB2}, {0x2F800, 0x2FA20}, {0xE0020, 0xE007F}, {0x00, 0x10FFFF},
  };
  const auto& block = kBlocks[random() % (sizeof(kBlocks) / sizeof(kBlocks[0]))];
  const char32_t code = block[0] + static_cast<char32_t>(random() % (block[1] - block[0] + 1));
  return code >= 0xD800 && code <= 0xDFFF ? U' ' : code;
}

// Some words, mostly of plain letters.
inline std::string hostile_text(std::mt19937_64& random, std::size_t words) {
  static const char* const kWords[] = {
      "the",          "treatment", "of",        "Hepatitis-B", "(in",        "12",      "mice).",
      "[MASK]",       "##ing",     "unaffable", "NF-kB",       "na\u00efve", "e\u0301", "\u03a3\u0391\u03a3",
      "\u4e2d\u6587", "\uac01"};
  std::string text;
  for (std::size_t word = 0; word < words; ++word) {
    const std::uint64_t kind = random() % 8;
    if (kind < 5) {
      text += kWords[random() % (sizeof(kWords) / sizeof(kWords[0]))];
    } else if (kind < 7) {
      for (std::uint64_t left = random() % 12; left > 0; --left) {
        text += static_cast<char>('a' + random() % 26);
      }
    } else {
      for (std::uint64_t left = random() % 6; left > 0; --left) {
        append_utf8(text, hostile_code(random));
      }
    }
    if (random() % 8 != 0) {
      text += random() % 16 == 0 ? '\n' : ' ';
    }
  }
  return text;
}

// Special tokens, ASCII by itself and as continuation, some syllables, and letters beyond ASCII.
inline std::vector<std::string> test_pieces() {
  std::vector<std::string> pieces{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  for (char character = '!'; character <= '~'; ++character) {
    pieces.emplace_back(1, character);
    pieces.push_back("##" + std::string(1, character));
  }
  for (const char* piece : {"the",
                            "treat",
                            "##ment",
                            "hepat",
                            "##itis",
                            "un",
                            "##aff",
                            "##able",
                            "##affa",
                            "##ff",
                            "in",
                            "##ing",
                            "na",
                            "##ive",
                            "##\u00efve",
                            "\u03c3",
                            "##\u03c3",
                            "\u03b1",
                            "##\u03b1",
                            "##\u03c2",
                            "##\u03b1\u03c2",
                            "\u4e2d",
                            "\u6587",
                            "\uac01",
                            "\u1100",
                            "##\u1161",
                            "##\u11a8",
                            "##\u1161\u11a8",
                            "\u00e9",
                            "##\u00e9",
                            "##\u0301",
                            "##",

                            "0000",
                            "##000",
                            "\xf0\x9d\x84\x9e",
                            "##\xf0\x9d\x84\x9e"}) {
    pieces.emplace_back(piece);
  }
  return pieces;
}

}  // namespace edad_fast::tests
