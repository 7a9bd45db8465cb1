#include "segment.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace edad_fast::wordpiece {
namespace {

std::size_t count_characters(std::string_view utf8) {
  return static_cast<std::size_t>(std::ranges::count_if(
      utf8, [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }));
}

// A word's first piece may be any entry of the vocabulary, "##" entries included: they match as they stand.
std::vector<Trie::Entry> initial_entries(const std::vector<std::string>& pieces) {
  if (pieces.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw std::invalid_argument("too many pieces: ids are 32-bit");
  }
  std::vector<Trie::Entry> entries;
  entries.reserve(pieces.size());
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    if (pieces[id].empty()) {
      throw std::invalid_argument("piece " + std::to_string(id) + " is empty");
    }
    entries.emplace_back(pieces[id], static_cast<std::int32_t>(id));
  }
  std::ranges::sort(entries);
  const auto twin = std::ranges::adjacent_find(entries, {}, &Trie::Entry::first);
  if (twin != entries.end()) {
    throw std::invalid_argument("piece '" + std::string(twin->first) + "' appears twice: ids " +
                                std::to_string(twin->second) + " and " + std::to_string((twin + 1)->second));
  }
  return entries;
}

std::vector<Trie::Entry> continuation_entries(const std::vector<std::string>& pieces,
                                              std::string_view prefix) {
  std::vector<Trie::Entry> entries;
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    const std::string_view piece = pieces[id];
    if (piece.size() > prefix.size() && piece.starts_with(prefix)) {
      entries.emplace_back(piece.substr(prefix.size()), static_cast<std::int32_t>(id));
    }
  }
  return entries;
}

}  // namespace

Trie::Trie(std::vector<Entry> entries) {
  std::ranges::sort(entries);
  // Breadth first: node i stands for the first `depth` bytes that entries[begin] to entries[end - 1] share.
  struct Range {
    std::size_t begin, end, depth;
  };
  std::vector<Range> ranges{{0, entries.size(), 0}};
  nodes_.emplace_back();
  for (std::size_t node = 0; node < nodes_.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    if (begin < end && entries[begin].first.size() == depth) {
      nodes_[node].id = entries[begin++].second;  // the shortest key sorts first
    }
    nodes_[node].first_child = static_cast<std::uint32_t>(nodes_.size());
    while (begin < end) {
      const char byte = entries[begin].first[depth];
      std::size_t stop = begin + 1;
      while (stop < end && entries[stop].first[depth] == byte) {
        ++stop;
      }
      nodes_.emplace_back().byte = static_cast<unsigned char>(byte);
      ranges.push_back({begin, stop, depth + 1});
      ++nodes_[node].child_count;
      begin = stop;
    }
  }
}

Trie::Match Trie::longest_prefix(std::string_view text) const {
  Match best;
  const Node* node = nodes_.data();
  for (std::size_t position = 0; position < text.size(); ++position) {
    const auto byte = static_cast<unsigned char>(text[position]);
    const std::span<const Node> children(nodes_.data() + node->first_child, node->child_count);
    const auto child = std::ranges::lower_bound(children, byte, {}, &Node::byte);
    if (child == children.end() || child->byte != byte) {
      break;
    }
    node = &*child;
    if (node->id >= 0) {
      best = {node->id, position + 1};
    }
  }
  return best;
}

Segmenter::Segmenter(const std::vector<std::string>& pieces, std::int32_t unk_id, std::string_view prefix,
                     std::size_t max_chars)
    : unk_id_(unk_id),
      max_chars_(max_chars),
      initial_(initial_entries(pieces)),
      continuation_(continuation_entries(pieces, prefix)) {
  if (unk_id < 0 || static_cast<std::size_t>(unk_id) >= pieces.size()) {
    throw std::invalid_argument("unk_id " + std::to_string(unk_id) + " is outside the " +
                                std::to_string(pieces.size()) + " pieces");
  }
}

void Segmenter::append(std::string_view word, bool as_continuation, std::vector<std::int32_t>& ids) const {
  // No word has more characters than bytes.
  if (word.size() > max_chars_ && count_characters(word) > max_chars_) {
    ids.push_back(unk_id_);
    return;
  }
  const std::size_t before = ids.size();
  const Trie* trie = as_continuation ? &continuation_ : &initial_;
  while (!word.empty()) {
    const auto [id, length] = trie->longest_prefix(word);
    if (id < 0) {
      ids.resize(before);
      ids.push_back(unk_id_);
      return;
    }
    ids.push_back(id);
    word.remove_prefix(length);
    trie = &continuation_;
  }
}

Segmentation Segmenter::segment(std::span<const std::string_view> words, bool as_continuation) const {
  Segmentation result;
  result.ids.reserve(words.size() + words.size() / 2);
  result.offsets.reserve(words.size() + 1);
  result.offsets.push_back(0);
  for (const std::string_view word : words) {
    append(word, as_continuation, result.ids);
    result.offsets.push_back(static_cast<std::int64_t>(result.ids.size()));
  }
  return result;
}

}  // namespace edad_fast::wordpiece
