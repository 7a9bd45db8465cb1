// Greedy longest-match-first WordPiece segmentation (the rule of BERT's and Hugging Face's WordPiece model).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edad_fast::wordpiece {

// The ids of word i are ids[offsets[i]] to ids[offsets[i + 1]], the end excluded.
struct Segmentation {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> offsets;
};

// A byte trie; immutable, so that threads can share it.
class Trie {
 public:
  using Entry = std::pair<std::string_view, std::int32_t>;

  struct Match {
    std::int32_t id = -1;  // -1: no key is a prefix of the text
    std::size_t length = 0;
  };

  // Keys are not empty and differ; ids are not negative.
  explicit Trie(std::vector<Entry> entries);

  Match longest_prefix(std::string_view text) const;

 private:
  // The children of a node lie side by side, in the order of their bytes.
  struct Node {
    std::uint32_t first_child = 0;
    std::uint32_t child_count = 0;
    std::int32_t id = -1;
    unsigned char byte = 0;
  };

  std::vector<Node> nodes_;
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
  Trie initial_;
  Trie continuation_;
};

}  // namespace edad_fast::wordpiece
