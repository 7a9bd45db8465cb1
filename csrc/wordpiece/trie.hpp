// Greedy longest-match-first segmentation in time linear in the word: a trie with failure links.
// Source: Song et al., "Fast WordPiece Tokenization", EMNLP 2021 (LinMaxMatch), here over bytes and with two
// roots: one for a word's first piece, one for the inside of words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edad_fast::wordpiece {

// Immutable, so that threads can share it. All text is UTF-8; matching whole bytes of valid UTF-8 never cuts
// a character.
class Matcher {
 public:
  // A piece's id is its index. A word's first piece may be any piece as it stands, those with the prefix
  // included; further pieces are those with the prefix, without it. Words of more than max_chars characters
  // are not asked for: longer pieces are left out.
  // Throws std::invalid_argument: a piece is empty or appears twice.
  Matcher(const std::vector<std::string>& pieces, std::string_view prefix, std::size_t max_chars);

  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);

  // Writes the ids of `word` to `out`, which has room for word.size() of them, and returns their number;
  // kNone if there is no segmentation. With `inside` the first piece, too, is a continuation piece.
  std::size_t match(std::string_view word, bool inside, std::int32_t* out) const {
    std::int32_t* const begin = out;
    std::uint32_t state = inside ? kInside : kInitial;
    for (const char character : word) {
      const auto byte = static_cast<unsigned char>(character);
      std::uint32_t next = units_[state].base + byte;
      while (units_[next].parent != state) {
        const Link& link = links_[state];
        if (link.state == kNoState) {
          return kNone;
        }
        out = emit(link, out);
        state = link.state;
        next = units_[state].base + byte;
      }
      state = next;
    }
    while (state != kInside && !word.empty()) {
      const Link& link = links_[state];
      if (link.state == kNoState) {
        return kNone;
      }
      out = emit(link, out);
      state = link.state;
    }
    return static_cast<std::size_t>(out - begin);
  }

 private:
  static constexpr std::uint32_t kInitial = 0;
  static constexpr std::uint32_t kInside = 1;
  static constexpr std::uint32_t kNoState = static_cast<std::uint32_t>(-1);

  // The child of state s by byte b is base(s) + b, if its parent is s (a double array).
  struct Unit {
    std::uint32_t base = 0;
    std::uint32_t parent = kNoState;
  };

  // Where matching goes on when a state has no child for the next byte, and the pieces it leaves behind.
  struct Link {
    std::uint32_t state = kNoState;
    std::uint32_t ids_begin = 0;
    std::uint32_t ids_end = 0;
  };

  std::int32_t* emit(const Link& link, std::int32_t* out) const {
    for (std::uint32_t i = link.ids_begin; i != link.ids_end; ++i) {
      *out++ = ids_[i];
    }
    return out;
  }

  std::uint32_t child(std::uint32_t state, unsigned char byte) const {
    const std::uint32_t next = units_[state].base + byte;
    return units_[next].parent == state ? next : kNoState;
  }

  friend class MatcherBuilder;

  std::vector<Unit> units_;
  std::vector<Link> links_;
  std::vector<std::int32_t> ids_;
};

}  // namespace edad_fast::wordpiece
