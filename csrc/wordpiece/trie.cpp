#include "trie.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "text.hpp"

namespace edad_fast::wordpiece {

class MatcherBuilder {
 public:
  explicit MatcherBuilder(Matcher& matcher) : units_(matcher.units_), matcher_(matcher) {}

  void build(const std::vector<std::string>& pieces, std::string_view prefix, std::size_t max_chars) {
    if (pieces.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
      throw std::invalid_argument("too many pieces: ids are 32-bit");
    }
    for (std::size_t id = 0; id < pieces.size(); ++id) {
      const std::string_view piece = pieces[id];
      if (piece.empty()) {
        throw std::invalid_argument("piece " + std::to_string(id) + " is empty");
      }
      initial_.emplace_back(piece, static_cast<std::int32_t>(id));
      if (piece.size() > prefix.size() && piece.starts_with(prefix)) {
        inside_.emplace_back(piece.substr(prefix.size()), static_cast<std::int32_t>(id));
      }
    }
    std::ranges::sort(initial_);
    std::ranges::sort(inside_);
    const auto twin = std::ranges::adjacent_find(initial_, {}, &Entry::first);
    if (twin != initial_.end()) {
      throw std::invalid_argument("piece '" + std::string(twin->first) + "' appears twice: ids " +
                                  std::to_string(twin->second) + " and " +
                                  std::to_string((twin + 1)->second));
    }
    for (std::vector<Entry>* entries : {&initial_, &inside_}) {
      std::erase_if(*entries, [&](const Entry& entry) {
        return entry.first.size() > max_chars && count_characters(entry.first) > max_chars;
      });
    }
    grow(first_free_);
    taken_[Matcher::kInitial] = taken_[Matcher::kInside] = 1;
    place();
    // So that base + byte is inside the array for every state.
    grow(units_.size() + 256);
    link();
  }

 private:
  using Entry = std::pair<std::string_view, std::int32_t>;

  // A state, and the entries that start with its bytes.
  struct Node {
    std::uint32_t state;
    std::uint32_t parent;
    unsigned char byte;
    std::int32_t id;  // of the piece that ends here, or -1
    std::size_t depth;
    std::span<const Entry> entries;
  };

  void grow(std::size_t size) {
    if (size > units_.size()) {
      units_.resize(size);
      taken_.resize(size, 0);
    }
  }

  // A base at which all `bytes` (ascending) are free. Single children fill the holes that families leave.
  std::uint32_t find_base(std::span<const unsigned char> bytes) {
    constexpr int kTries = 32;
    std::size_t& start = bytes.size() == 1 ? first_free_ : family_start_;
    while (start < taken_.size() && taken_[start]) {
      ++start;
    }
    std::size_t base = start - bytes[0];
    for (int tries = 0;; ++base, ++tries) {
      grow(base + bytes.back() + 1);
      if (std::ranges::none_of(bytes, [&](unsigned char byte) { return taken_[base + byte]; })) {
        break;
      }
      if (bytes.size() > 1 && tries == kTries) {
        ++start;  // crowded here: later searches start further on
        tries = 0;
      }
    }
    return static_cast<std::uint32_t>(base);
  }

  // Breadth first over both tries at once: links lead to states of less depth.
  void place() {
    nodes_.push_back({Matcher::kInitial, Matcher::kNoState, 0, -1, 0, initial_});
    nodes_.push_back({Matcher::kInside, Matcher::kNoState, 0, -1, 0, inside_});
    std::vector<unsigned char> bytes;
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      auto [state, parent, byte, id, depth, entries] = nodes_[i];
      if (!entries.empty() && entries.front().first.size() == depth) {
        nodes_[i].id = entries.front().second;  // the shortest key sorts first
        entries = entries.subspan(1);
      }
      bytes.clear();
      const std::size_t first_child = nodes_.size();
      while (!entries.empty()) {
        const char next = entries.front().first[depth];
        const auto stop =
            std::ranges::find_if(entries, [&](const Entry& entry) { return entry.first[depth] != next; });
        const auto count = static_cast<std::size_t>(stop - entries.begin());
        bytes.push_back(static_cast<unsigned char>(next));
        nodes_.push_back({0, state, bytes.back(), -1, depth + 1, entries.first(count)});
        entries = entries.subspan(count);
      }
      if (bytes.empty()) {
        units_[state].base = 2;
        continue;
      }
      const std::uint32_t base = find_base(bytes);
      units_[state].base = base;
      for (std::size_t child = 0; child < bytes.size(); ++child) {
        const std::uint32_t place = base + bytes[child];
        taken_[place] = 1;
        units_[place].parent = state;
        nodes_[first_child + child].state = place;
      }
    }
  }

  void link() {
    auto& links = matcher_.links_;
    auto& ids = matcher_.ids_;
    links.resize(units_.size());
    std::vector<std::int32_t> left_behind;
    const auto append = [&](const Matcher::Link& from) {
      left_behind.insert(left_behind.end(), ids.begin() + from.ids_begin, ids.begin() + from.ids_end);
    };
    for (const Node& node : nodes_) {
      if (node.depth == 0) {
        continue;
      }
      left_behind.clear();
      std::uint32_t state = Matcher::kInside;
      if (node.id >= 0) {
        left_behind.push_back(node.id);
      } else {
        const Matcher::Link* link = &links[node.parent];
        state = Matcher::kNoState;
        while (link->state != Matcher::kNoState && state == Matcher::kNoState) {
          append(*link);
          state = matcher_.child(link->state, node.byte);
          link = &links[link->state];
        }
        if (state == Matcher::kNoState) {
          continue;
        }
      }
      const std::size_t begin = ids.size();
      ids.insert(ids.end(), left_behind.begin(), left_behind.end());
      if (ids.size() > std::numeric_limits<std::uint32_t>::max()) {
        throw std::invalid_argument("the pieces are too many or too long");
      }
      links[node.state] = {state, static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(ids.size())};
    }
  }

  std::vector<Matcher::Unit>& units_;
  Matcher& matcher_;
  std::vector<Entry> initial_, inside_;
  std::vector<Node> nodes_;
  std::vector<char> taken_;
  // The first places would be out of reach of most bytes; no child falls on a root.
  std::size_t first_free_ = 256 + 2;
  std::size_t family_start_ = 256 + 2;
};

Matcher::Matcher(const std::vector<std::string>& pieces, std::string_view prefix, std::size_t max_chars) {
  MatcherBuilder(*this).build(pieces, prefix, max_chars);
}

}  // namespace edad_fast::wordpiece
