// How the encoder takes words from scan(): each is looked up, or else matched, and its ids appended. Included
// by encode.cpp alone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "encode.hpp"
#include "scan.hpp"

namespace edad_fast::wordpiece {

struct Encoder::Worker {
  explicit Worker(const WordCache& prefilled) : cache(prefilled) {}

  WordCache cache;
  ScanState scan;
  std::string utf8;
};

// Receives the words of one text from scan() and appends their ids.
template <bool with_spans>
class Encoder::Sink {
  static constexpr std::size_t kSlack = 8;  // ids written at once, at most, beyond those that count

 public:
  Sink(const Encoder& encoder, Worker& worker, Encoded& out)
      : encoder_(encoder), cache_(worker.cache), out_(out) {}

  // The next bytes scanned begin at this byte of the text.
  void set_origin(std::size_t origin) { origin_ = origin; }

  void ascii(const unsigned char* bytes, const std::uint16_t* begins, const std::uint16_t* ends,
             std::size_t count, std::size_t offset) {
    std::int32_t* out = out_.ids.reserve_more(Window::kCapacity + kSlack);
    SpanWriter spans(*this, Window::kCapacity + kSlack);
    for (std::size_t i = 0; i < count; ++i) {
      const unsigned char* word = bytes + begins[i];
      const std::size_t length = static_cast<std::size_t>(ends[i] - begins[i]);
      const std::int32_t* const first = out;
      if (length <= WordCache::kShortBytes) [[likely]] {
        const ShortKey key = ShortKey::load(word, length);
        if (const WordCache::Slot* slot = cache_.find(key)) [[likely]] {
          std::memcpy(out, slot->ids, sizeof(slot->ids));
          out += slot->count;
        } else {
          out = short_word(key, word, length, out);
        }
      } else {
        out = long_word(word, length, out);
      }
      if constexpr (with_spans) {
        const auto begin = static_cast<std::int32_t>(origin_ + offset + begins[i] - extra_bytes_);
        spans.add(first, out, length, [&](std::size_t from, std::size_t to) {
          return std::pair{begin + static_cast<std::int32_t>(from), begin + static_cast<std::int32_t>(to)};
        });
      }
    }
    out_.ids.set_end(out);
  }

  void word(const Word& word, std::size_t chunk_offset) {
    const std::size_t length = word.text.size();
    std::int32_t* const first = out_.ids.reserve_more(length + kSlack);
    std::int32_t* out = first;
    if (word.characters > encoder_.options_.max_chars) {
      *out++ = encoder_.options_.unk_id;
    } else if (word.text.find('\0') != std::string_view::npos) {
      out += encoder_.match(word.text, out);  // the cache pads with NUL
    } else {
      alignas(16) unsigned char padded[WordCache::kLongBytes] = {};
      const auto* bytes = reinterpret_cast<const unsigned char*>(word.text.data());
      if (length <= WordCache::kLongBytes) {
        std::memcpy(padded, bytes, length);
        bytes = padded;
      }
      if (length <= WordCache::kShortBytes) {
        const ShortKey key = ShortKey::load(bytes, length);
        if (const WordCache::Slot* slot = cache_.find(key)) {
          std::memcpy(out, slot->ids, sizeof(slot->ids));
          out += slot->count;
        } else {
          out = short_word(key, bytes, length, out);
        }
      } else {
        out = long_word(bytes, length, out);
      }
    }
    if constexpr (with_spans) {
      const auto chunk = static_cast<std::int32_t>(origin_ + chunk_offset - extra_bytes_);
      SpanWriter spans(*this, static_cast<std::size_t>(out - first));
      spans.add(first, out, word.characters, [&](std::size_t from, std::size_t to) {
        const std::uint32_t end = to == word.characters ? word.end : word.spans[to - 1].end;
        return std::pair{chunk + static_cast<std::int32_t>(word.spans[from].begin),
                         chunk + static_cast<std::int32_t>(end)};
      });
    }
    out_.ids.set_end(out);
  }

  void chunk(std::size_t bytes, std::size_t characters) { extra_bytes_ += bytes - characters; }

  // A special token that stands in the text, `length` bytes at origin.
  void literal(std::int32_t id, std::string_view text) {
    out_.ids.push_back(id);
    if constexpr (with_spans) {
      const std::size_t characters = count_characters(text);
      const std::size_t begin = origin_ - extra_bytes_;
      out_.spans.push_back(static_cast<std::int32_t>(begin));
      out_.spans.push_back(static_cast<std::int32_t>(begin + characters));
      out_.words.push_back(words_++);
      extra_bytes_ += text.size() - characters;
    }
  }

 private:
  // A word that is not among the short ones of the cache. 16 bytes are readable.
  [[gnu::noinline]] std::int32_t* short_word(const ShortKey& key, const unsigned char* word,
                                             std::size_t length, std::int32_t* out) {
    // The text may be shorter than what the look-up of long words reads.
    alignas(16) unsigned char padded[WordCache::kLongBytes] = {};
    std::memcpy(padded, word, length);
    std::size_t count = 0;
    if (const std::int32_t* ids = cache_.find_long(padded, length, count)) {
      return std::copy_n(ids, count, out);
    }
    count = encoder_.match({reinterpret_cast<const char*>(word), length}, out);
    if (count <= WordCache::kShortIds) {
      cache_.insert(key, out, count);
    } else if (count <= WordCache::kLongIds) {
      cache_.insert_long(padded, length, out, count);
    }
    return out + count;
  }

  // A word of more than 16 bytes; if it is of at most 32, 32 are readable.
  [[gnu::noinline]] std::int32_t* long_word(const unsigned char* word, std::size_t length,
                                            std::int32_t* out) {
    std::size_t count = 0;
    if (length <= WordCache::kLongBytes) {
      if (const std::int32_t* ids = cache_.find_long(word, length, count)) {
        return std::copy_n(ids, count, out);
      }
    }
    count = encoder_.match({reinterpret_cast<const char*>(word), length}, out);
    if (length <= WordCache::kLongBytes && count <= WordCache::kLongIds) {
      cache_.insert_long(word, length, out, count);
    }
    return out + count;
  }

  // Appends the spans and word numbers of some words, at most `room` tokens; keeps its place in registers.
  class SpanWriter {
   public:
    SpanWriter(Sink& sink, std::size_t room) : sink_(sink) {
      if constexpr (with_spans) {
        spans_ = sink.out_.spans.reserve_more(2 * room);
        words_ = sink.out_.words.reserve_more(room);
      }
    }
    ~SpanWriter() {
      if constexpr (with_spans) {
        sink_.out_.spans.set_end(spans_);
        sink_.out_.words.set_end(words_);
      }
    }
    SpanWriter(const SpanWriter&) = delete;
    SpanWriter& operator=(const SpanWriter&) = delete;

    // span(from, to): the characters of the original text behind characters from..to of the word.
    template <typename Span>
    void add(const std::int32_t* first, const std::int32_t* last, std::size_t characters, Span span) {
      std::size_t from = 0;
      for (; first + 1 < last; ++first) {
        const std::size_t to = from + sink_.encoder_.piece_chars_[static_cast<std::size_t>(*first)];
        put(span(from, to));
        from = to;
      }
      // The last piece, or the unknown token, ends with the word.
      put(span(from, characters));
      ++sink_.words_;
    }

   private:
    void put(std::pair<std::int32_t, std::int32_t> span) {
      spans_[0] = span.first;
      spans_[1] = span.second;
      spans_ += 2;
      *words_++ = sink_.words_;
    }

    Sink& sink_;
    std::int32_t* spans_ = nullptr;
    std::int32_t* words_ = nullptr;
  };

  const Encoder& encoder_;
  WordCache& cache_;
  Encoded& out_;
  std::size_t origin_ = 0;
  std::size_t extra_bytes_ = 0;  // bytes less characters of the text so far
  std::int32_t words_ = 0;
};

}  // namespace edad_fast::wordpiece
