// Finds the words of text, fast where it is ASCII. A window of text is classified 16 bytes at a time and its
// words are laid out as arrays of begins and ends; a white-space-delimited chunk with a byte outside
// printable ASCII is left to the normaliser.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "normalize.hpp"

namespace edad_fast::wordpiece {

// A window is small enough to stay, with its arrays, in the first-level cache.
class Window {
 public:
  static constexpr std::size_t kCapacity = 8192;
  static constexpr std::size_t kPadding = 64;

  // Takes the beginning of `text`, as much as fits, up to white space unless it is the end of the text.
  // Returns the bytes taken; 0 if a chunk without white space does not fit.
  std::size_t fill(std::string_view text, bool lowercase);

  // Bytes, lower-cased if asked for; kPadding readable bytes follow.
  const unsigned char* bytes() const { return bytes_; }

  // Token i is the bytes [begins[i], ends[i]): a run of letters and digits, or one punctuation character.
  // Those inside a chunk of `next_odd_chunk` are meaningless.
  std::size_t tokens() const { return tokens_; }
  const std::uint16_t* begins() const { return begins_; }
  const std::uint16_t* ends() const { return ends_; }

  // Finds the first chunk at or after `from` with a byte outside printable ASCII; false if there is none.
  bool next_odd_chunk(std::size_t from, std::size_t& begin, std::size_t& end) const {
    return has_odd_ && find_odd_chunk(from, begin, end);
  }

 private:
  bool find_odd_chunk(std::size_t from, std::size_t& begin, std::size_t& end) const;
  // bytes_ holds the text, filled up with spaces.
  void classify(std::size_t size, bool lowercase);
  void classify_avx2(std::size_t size, bool lowercase);
  template <typename Block>
  void classify_blocks(std::size_t size, bool lowercase);

  alignas(64) unsigned char bytes_[kCapacity + kPadding];
  std::uint16_t begins_[kCapacity + kPadding];
  std::uint16_t ends_[kCapacity + kPadding];
  std::uint64_t odd_[kCapacity / 64];
  std::uint64_t space_[kCapacity / 64];
  std::size_t size_ = 0;
  std::size_t tokens_ = 0;
  bool has_odd_ = false;
};

inline bool is_ascii_space(char byte) { return byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r'; }

// What one thread needs to scan.
struct ScanState {
  Window window;
  Normalizer::Scratch scratch;
};

// Calls sink.ascii(bytes, begins, ends, count, offset) for runs of plain tokens (`offset`: place in `utf8` of
// bytes[0]), and sink.word(word, chunk_offset) for the normaliser's words, in text order;
// sink.chunk(bytes, characters) after each chunk that the normaliser took. Any bytes are accepted.
template <bool with_spans, typename Sink>
void scan(std::string_view utf8, const Normalizer& normalizer, bool lowercase, std::size_t max_chars,
          ScanState& state, Sink& sink) {
  Window& window = state.window;
  const auto odd_chunk = [&](std::size_t offset, std::size_t size) {
    const std::size_t characters =
        normalizer.template for_each_word<with_spans>(utf8.substr(offset, size), max_chars, state.scratch,
                                                      [&](const Word& word) { sink.word(word, offset); });
    sink.chunk(size, characters);
  };
  std::size_t offset = 0;
  while (offset < utf8.size()) {
    const std::size_t taken = window.fill(utf8.substr(offset), lowercase);
    if (taken == 0) {
      std::size_t end = offset + Window::kCapacity;
      while (end < utf8.size() && !is_ascii_space(utf8[end])) {
        ++end;
      }
      odd_chunk(offset, end - offset);
      offset = end;
      continue;
    }
    std::size_t token = 0;
    std::size_t chunk_begin = 0;
    std::size_t chunk_end = 0;
    while (window.next_odd_chunk(chunk_end, chunk_begin, chunk_end)) {
      const std::size_t first = token;
      while (token < window.tokens() && window.begins()[token] < chunk_begin) {
        ++token;
      }
      sink.ascii(window.bytes(), window.begins() + first, window.ends() + first, token - first, offset);
      odd_chunk(offset + chunk_begin, chunk_end - chunk_begin);
      while (token < window.tokens() && window.begins()[token] < chunk_end) {
        ++token;
      }
    }
    sink.ascii(window.bytes(), window.begins() + token, window.ends() + token, window.tokens() - token,
               offset);
    offset += taken;
  }
}

}  // namespace edad_fast::wordpiece
