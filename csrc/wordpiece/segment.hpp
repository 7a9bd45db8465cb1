// Greedy longest-match-first WordPiece segmentation (the rule of BERT's and Hugging Face's WordPiece model).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "trie.hpp"

namespace edad_fast::wordpiece {

// The ids of word i are ids[offsets[i]] to ids[offsets[i + 1]], the end excluded.
struct Segmentation {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> offsets;
};

class Segmenter {
 public:
  // A piece's id is its index. All text is UTF-8.
  // Throws std::invalid_argument: a piece is empty or appears twice, unk_id is no index into pieces.
  Segmenter(const std::vector<std::string>& pieces, std::int32_t unk_id, std::string_view prefix = "##",
            std::size_t max_chars = 100);

  // A word of more than max_chars characters, or one without a full segmentation, becomes unk_id alone; an
  // empty word becomes no id. With as_continuation the first piece, too, is a continuation piece.
  Segmentation segment(std::span<const std::string_view> words, bool as_continuation = false) const;

 private:
  void append(std::string_view word, bool as_continuation, std::vector<std::int32_t>& ids) const;

  std::int32_t unk_id_;
  std::size_t max_chars_;
  Matcher matcher_;
};

}  // namespace edad_fast::wordpiece
