// Any UTF-8 text to the words of BERT: cleaned, Chinese characters apart, accents stripped, lower-cased,
// split at white space and punctuation; with the places in the text that the words stem from.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "character_plan.hpp"
#include "mark_run.hpp"
#include "unicode.hpp"

namespace edad_fast::wordpiece {

// Indices of code points of the chunk, the end excluded, that one normalised character stems from.
struct CharSpan {
  std::uint32_t begin, end;
};

struct Word {
  std::string_view text;            // normalised UTF-8: at most the first max_chars + 1 characters
  std::size_t characters;           // of the whole normalised word
  std::span<const CharSpan> spans;  // one per character of `text`; empty unless asked for
  std::uint32_t end;                // of the span of the whole word's last character; 0 unless asked for
};

// Immutable, shared by threads.
class Normalizer {
 public:
  explicit Normalizer(const NormalizerOptions& options)
      : plan_(&CharacterPlan::of(options)), letters_(plan_->ascii_letters()) {}

  // Buffers of one thread, reused.
  class Scratch {
   private:
    friend class Normalizer;
    std::vector<char> text_;
    std::vector<CharSpan> spans_;
  };

  // Splits a chunk and calls on_word(const Word&) in order; a Word's views end with the call. Any bytes are
  // accepted: what is not UTF-8 counts as U+FFFD, one per maximal invalid piece, as with Python's
  // errors="replace". Text that goes on must be cut at white space (space, \t, \n, \r).
  // Memory does not grow with the chunk. Returns the number of code points of the chunk.
  // Throws std::invalid_argument: spans are asked for and the chunk has 4 GiB or more.
  template <bool with_spans, class OnWord>
  std::size_t for_each_word(std::string_view utf8, std::size_t max_chars, Scratch& scratch,
                            OnWord&& on_word) const;

 private:
  template <bool with_spans, class OnWord>
  class Builder;

  static constexpr Utf8Bytes kSigma = to_utf8(0x3C3);
  static constexpr Utf8Bytes kFinalSigma = to_utf8(0x3C2);
  // Whether the lower case of the capital sigma `at` is the final one.
  bool is_final_sigma(const unsigned char* begin, const unsigned char* at, const unsigned char* end) const;

  const CharacterPlan* plan_;
  const unsigned char* letters_;
};

// The word at hand.
template <bool with_spans, class OnWord>
class Normalizer::Builder {
  static_assert(std::endian::native == std::endian::little, "Utf8Bytes are stored as they are");

 public:
  Builder(Scratch& scratch, std::size_t max_chars, OnWord& on_word)
      : scratch_(scratch), on_word_(on_word), max_chars_(max_chars) {
    if (scratch_.text_.empty() || (with_spans && scratch_.spans_.empty())) {
      resize(kFirstRoom);
    }
    set_room();
  }

  void put(Utf8Bytes letter, std::size_t index) {
    if constexpr (with_spans) {
      end_ = static_cast<std::uint32_t>(index) + 1;
    }
    if (characters_ >= room_) [[unlikely]] {
      if (!make_room()) {
        ++characters_;
        return;
      }
    }
    std::memcpy(out_, &letter.bytes, sizeof(letter.bytes));
    out_ += letter.length;
    if constexpr (with_spans) {
      const auto begin = static_cast<std::uint32_t>(index);
      scratch_.spans_[characters_] = {begin, begin + 1};
    }
    ++characters_;
  }

  // Takes letters from `at` on, at least one if there is one; returns how many.
  std::size_t put_ascii(const unsigned char* letters, const unsigned char* at, const unsigned char* end,
                        std::size_t index) {
    if (characters_ >= room_) [[unlikely]] {
      if (!make_room()) {
        ++characters_;
        if constexpr (with_spans) {
          end_ = static_cast<std::uint32_t>(index) + 1;
        }
        return 1;
      }
    }
    const std::size_t room = room_ - characters_;
    const auto left = static_cast<std::size_t>(end - at);
    const std::size_t limit = left < room ? left : room;
    std::size_t taken = 0;
    char* const out = out_;
    while (taken < limit) {
      const unsigned char letter = letters[at[taken]];
      if (letter == 0) {
        break;
      }
      out[taken] = static_cast<char>(letter);
      if constexpr (with_spans) {
        const auto begin = static_cast<std::uint32_t>(index + taken);
        scratch_.spans_[characters_ + taken] = {begin, begin + 1};
      }
      ++taken;
    }
    out_ += taken;
    characters_ += taken;
    if constexpr (with_spans) {
      end_ = static_cast<std::uint32_t>(index + taken);
    }
    return taken;
  }

  void end_word() {
    if (characters_ == 0) {
      return;
    }
    const char* const text = scratch_.text_.data();
    const std::size_t stored = characters_ < room_ ? characters_ : room_;
    on_word_(Word{
        std::string_view(text, static_cast<std::size_t>(out_ - text)), characters_,
        with_spans ? std::span<const CharSpan>(scratch_.spans_.data(), stored) : std::span<const CharSpan>(),
        end_});
    out_ = scratch_.text_.data();
    characters_ = 0;
  }

  void put(const Part& part, std::size_t index) {
    if (part.role == Role::letter) {
      put(part.utf8, index);
    } else if (part.role == Role::alone) {
      end_word();
      put(part.utf8, index);
      end_word();
    } else if (part.role == Role::space) {
      end_word();
    }
  }

 private:
  static constexpr std::size_t kFirstRoom = 256;  // characters

  void resize(std::size_t characters) {
    scratch_.text_.resize(characters * sizeof(Utf8Bytes::bytes));
    if (with_spans) {
      scratch_.spans_.resize(characters);
    }
  }

  void set_room() {
    room_ = scratch_.text_.size() / sizeof(Utf8Bytes::bytes);
    if (with_spans && scratch_.spans_.size() < room_) {
      room_ = scratch_.spans_.size();
    }
    if (room_ > max_chars_) {
      room_ = max_chars_ + 1;
    }
    out_ = scratch_.text_.data();
  }

  // False: the word has max_chars + 1 characters already.
  bool make_room() {
    if (characters_ > max_chars_) {
      return false;
    }
    const std::ptrdiff_t used = out_ - scratch_.text_.data();
    resize(2 * room_);
    set_room();
    out_ += used;
    return true;
  }

  Scratch& scratch_;
  OnWord& on_word_;
  const std::size_t max_chars_;
  std::size_t room_ = 0;  // characters that can be stored
  std::size_t characters_ = 0;
  std::uint32_t end_ = 0;
  char* out_ = nullptr;
};

template <bool with_spans, class OnWord>
std::size_t Normalizer::for_each_word(std::string_view utf8, std::size_t max_chars, Scratch& scratch,
                                      OnWord&& on_word) const {
  if (with_spans && utf8.size() >= std::numeric_limits<std::uint32_t>::max()) {
    throw std::invalid_argument("a text of " + std::to_string(utf8.size()) +
                                " bytes is too long for offsets: cut it below 4 GiB");
  }
  Builder<with_spans, std::remove_reference_t<OnWord>> word(scratch, max_chars, on_word);
  const auto* const begin = reinterpret_cast<const unsigned char*>(utf8.data());
  const unsigned char* const end = begin + utf8.size();
  const unsigned char* at = begin;
  std::size_t index = 0;  // of the code point `at`
  while (at < end) {
    if (letters_[*at] != 0) {
      const std::size_t taken = word.put_ascii(letters_, at, end, index);
      at += taken;
      index += taken;
      continue;
    }
    const Utf8Unit unit = read_utf8(at, end);
    const CharacterPlan::Entry entry = plan_->entry(unit.code);
    switch (entry.action()) {
      case Action::copy:
        word.put(to_utf8(unit.code), index);
        break;
      case Action::map:
        word.put(entry.letter_bytes(), index);
        break;
      case Action::alone:
        word.end_word();
        word.put(to_utf8(unit.code), index);
        word.end_word();
        break;
      case Action::space:
        word.end_word();
        break;
      case Action::removed:
      case Action::dropped:
        break;
      case Action::hangul: {
        const char32_t syllable = unit.code - 0xAC00;
        word.put(to_utf8(0x1100 + syllable / 588), index);
        word.put(to_utf8(0x1161 + syllable % 588 / 28), index);
        if (syllable % 28 != 0) {
          word.put(to_utf8(0x11A7 + syllable % 28), index);
        }
        break;
      }
      case Action::list:
        for (const Part& part : plan_->parts(entry)) {
          word.put(part, index);
        }
        break;
      case Action::sigma:
        word.put(is_final_sigma(begin, at, end) ? kFinalSigma : kSigma, index);
        break;
      case Action::marks: {
        const MarkRun run(*plan_, at, end, index);
        if (run.keeps_marks()) {
          MarkOrder order(run);
          std::size_t origin = index;
          while (const Part* part = order.next(origin)) {
            word.put(*part, origin);
          }
        }
        at = run.end();
        index = run.end_index();
        continue;
      }
    }
    at += unit.length;
    ++index;
  }
  word.end_word();
  return index;
}

}  // namespace edad_fast::wordpiece
