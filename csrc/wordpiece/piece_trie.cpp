#include "piece_trie.hpp"

#include <algorithm>
#include <utility>

namespace edad_fast::wordpiece {

PieceTrie::PieceTrie(const std::vector<std::string>& pieces, std::string_view prefix) {
  using Entry = std::pair<std::string_view, std::int32_t>;
  std::vector<Entry> entries;
  entries.reserve(2 * pieces.size());
  std::vector<Entry> inside;
  for (std::size_t index = 0; index < pieces.size(); ++index) {
    const std::string_view piece = pieces[index];
    const bool can_continue = piece.size() > prefix.size() && piece.starts_with(prefix);
    entries.emplace_back(piece, static_cast<std::int32_t>(can_continue ? index + pieces.size() : index));
    if (can_continue) {
      inside.emplace_back(piece.substr(prefix.size()), static_cast<std::int32_t>(index));
    }
  }
  std::ranges::sort(entries);
  std::ranges::sort(inside);
  const std::size_t middle = entries.size();
  entries.insert(entries.end(), inside.begin(), inside.end());

  // Breadth first: node i stands for the first `depth` bytes that entries[begin] to entries[end - 1] share.
  struct Range {
    std::size_t begin, end, depth;
  };
  std::vector<Range> ranges{{0, middle, 0}, {middle, entries.size(), 0}};
  nodes_.resize(2);
  labels_.resize(2);
  for (std::size_t node = 0; node < nodes_.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    for (; begin < end && entries[begin].first.size() == depth; ++begin) {
      if (nodes_[node].id < 0) {  // the shortest key sorts first, equal ones by id
        nodes_[node].id = entries[begin].second;
      }
    }
    const std::size_t first = nodes_.size();
    while (begin < end) {
      const char byte = entries[begin].first[depth];
      std::size_t stop = begin + 1;
      while (stop < end && entries[stop].first[depth] == byte) {
        ++stop;
      }
      nodes_.emplace_back();
      labels_.push_back(static_cast<unsigned char>(byte));
      ranges.push_back({begin, stop, depth + 1});
      begin = stop;
    }
    const std::size_t children = nodes_.size() - first;
    nodes_[node].children = static_cast<std::uint32_t>(children);
    nodes_[node].first = static_cast<std::uint32_t>(first);
    if (children > kMostListed) {
      nodes_[node].first = static_cast<std::uint32_t>(tables_.size());
      tables_.resize(tables_.size() + 256);
      for (std::size_t child = first; child < nodes_.size(); ++child) {
        tables_[nodes_[node].first + labels_[child]] = static_cast<std::uint32_t>(child);
      }
    }
  }
}

}  // namespace edad_fast::wordpiece
