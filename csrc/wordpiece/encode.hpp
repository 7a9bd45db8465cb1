// Texts to WordPiece ids, as BERT: normalise, split into words, greedy longest match.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "buffer.hpp"
#include "normalize.hpp"
#include "text.hpp"
#include "trie.hpp"
#include "word_cache.hpp"

namespace edad_fast::wordpiece {

// Token t stems from the characters (code points of the original text) spans[2 t] to spans[2 t + 1], the end
// excluded, and from word words[t] of its text. Text i has the tokens row_offsets[i] to row_offsets[i + 1].
struct Encoded {
  Buffer<std::int32_t> ids;
  Buffer<std::int64_t> row_offsets;
  Buffer<std::int32_t> spans;  // empty unless asked for
  Buffer<std::int32_t> words;  // likewise
};

struct EncoderOptions {
  NormalizerOptions normalizer;
  std::int32_t unk_id = 0;
  std::string prefix = "##";
  std::size_t max_chars = 100;  // a longer word, counted after normalisation, is one unknown token
  // Found in the raw text as they stand, leftmost and longest first; each becomes its id.
  std::vector<std::pair<std::string, std::int32_t>> literals;
};

// Immutable to its users: threads can share it.
class Encoder {
 public:
  // A piece's id is its index.
  // Throws std::invalid_argument: a piece is empty or appears twice, an id is no index, a literal is empty.
  Encoder(const std::vector<std::string>& pieces, EncoderOptions options);
  ~Encoder();

  // Any bytes are accepted: what is not UTF-8 counts as U+FFFD.
  // Throws std::invalid_argument naming the text: half of a surrogate pair, in mode Compat::hf; 2 GiB or more
  // of UTF-8 with spans.
  Encoded encode(std::span<const TextView> texts, std::size_t n_threads, bool with_spans) const;

 private:
  struct Worker;
  template <bool with_spans>
  class Sink;

  std::unique_ptr<Worker> take_worker() const;
  void give_back(std::unique_ptr<Worker> worker) const;
  template <bool with_spans>
  void encode_range(std::span<const TextView> texts, TextRange range, Worker& worker, Encoded& out) const;
  template <bool with_spans>
  void encode_text(std::string_view utf8, Worker& worker, Encoded& out) const;
  std::size_t find_literal(std::string_view utf8, std::size_t from, std::size_t& length,
                           std::int32_t& id) const;
  std::size_t match(std::string_view word, std::int32_t* out) const;

  EncoderOptions options_;
  Normalizer normalizer_;
  Matcher matcher_;
  std::vector<std::uint32_t> piece_chars_;  // characters of a piece, without the prefix
  std::string literal_first_bytes_;
  WordCache prefilled_;
  // Caches of words met before. A worker is taken for one call by one thread.
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Worker>> idle_;
};

}  // namespace edad_fast::wordpiece
