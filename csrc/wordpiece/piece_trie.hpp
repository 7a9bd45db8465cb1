// All pieces that begin at a place of a word, shortest first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace edad_fast::wordpiece {

// A byte trie with two roots: a word's first piece may be any piece as it stands, later ones are those with
// the prefix, without it. Immutable.
class PieceTrie {
 public:
  // A piece's id is its index. Where a piece with the prefix begins a word, as it stands, its id is the index
  // + pieces.size(), so that an id has one length. Pieces are not empty; of equal pieces the first counts.
  PieceTrie(const std::vector<std::string>& pieces, std::string_view prefix);

  // Calls found(id, length in bytes) for every piece that `text` starts with, by rising length. With
  // `inside`, `text` is the rest of a word.
  template <typename Found>
  void for_each_prefix(std::string_view text, bool inside, Found&& found) const {
    const Node* node = &nodes_[inside ? kInside : kInitial];
    for (std::size_t position = 0; position < text.size(); ++position) {
      const auto byte = static_cast<unsigned char>(text[position]);
      std::uint32_t child = 0;
      if (node->children > kMostListed) {
        child = tables_[node->first + byte];
      } else {
        for (std::uint32_t i = node->first; i < node->first + node->children; ++i) {
          if (labels_[i] == byte) {
            child = i;
            break;
          }
        }
      }
      if (child == 0) {
        return;
      }
      node = &nodes_[child];
      if (node->id >= 0) {
        found(node->id, position + 1);
      }
    }
  }

 private:
  static constexpr std::uint32_t kInitial = 0;  // no child of a node, so that 0 can stand for "no child"
  static constexpr std::uint32_t kInside = 1;
  static constexpr std::uint32_t kMostListed = 8;

  // The children of a node lie side by side; those of a node with many are found by a table of 256.
  struct Node {
    std::uint32_t first = 0;  // first child, or the table's place
    std::uint32_t children = 0;
    std::int32_t id = -1;
  };

  std::vector<Node> nodes_;
  std::vector<unsigned char> labels_;  // the byte that leads to each node
  std::vector<std::uint32_t> tables_;
};

}  // namespace edad_fast::wordpiece
