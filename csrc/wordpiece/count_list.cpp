#include "count_list.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <queue>
#include <stdexcept>

#include "utf8.hpp"

namespace edad_fast::wordpiece {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

// Appends words in ascending order; equal neighbours add up.
class Builder {
 public:
  explicit Builder(std::int64_t long_words) {
    if (long_words < 0) {
      throw std::invalid_argument("long_words is " + std::to_string(long_words) + "; give 0 or more");
    }
    add_long_words(long_words);
  }

  void add(std::string_view word, std::int64_t count) {
    add_to_total(count);
    if (list_.size() > 0 && list_.word(list_.size() - 1) == word) {
      list_.counts.back() += count;
      return;
    }
    list_.text += word;
    list_.ends.push_back(list_.text.size());
    list_.counts.push_back(count);
  }

  void add_long_words(std::int64_t count) {
    add_to_total(count);
    list_.long_words += count;
  }

  void reserve(std::size_t bytes, std::size_t words) {
    list_.text.reserve(bytes);
    list_.ends.reserve(words);
    list_.counts.reserve(words);
  }

  CountList take() {
    list_.text.shrink_to_fit();
    return std::move(list_);
  }

 private:
  void add_to_total(std::int64_t count) {
    if (count > kMost - total_) {
      throw std::invalid_argument("the counts add up to more than 2**63 - 1");
    }
    total_ += count;
  }

  CountList list_;
  std::int64_t total_ = 0;
};

}  // namespace

std::int64_t CountList::total() const { return std::accumulate(counts.begin(), counts.end(), long_words); }

std::int64_t CountList::find(std::string_view wanted) const {
  std::size_t begin = 0;
  std::size_t end = size();
  while (begin < end) {
    const std::size_t middle = begin + (end - begin) / 2;
    if (word(middle) < wanted) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin < size() && word(begin) == wanted ? static_cast<std::int64_t>(begin) : -1;
}

CountList make_count_list(std::vector<std::pair<std::string, std::int64_t>> items, std::int64_t long_words) {
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const auto& [word, count] = items[i];
    const auto refuse = [&](const std::string& reason) {
      throw std::invalid_argument("word " + std::to_string(i) + " " + reason);
    };
    if (word.empty()) {
      refuse("is empty");
    }
    if (!is_valid_utf8(word)) {
      refuse("is not valid UTF-8");
    }
    if (count <= 0) {
      refuse("('" + word + "') has the count " + std::to_string(count) + "; give 1 or more");
    }
    bytes += word.size();
  }
  if (!std::ranges::is_sorted(items, {}, [](const auto& item) { return std::string_view(item.first); })) {
    std::ranges::sort(items);
  }
  Builder builder(long_words);
  builder.reserve(bytes, items.size());
  for (const auto& [word, count] : items) {
    builder.add(word, count);
  }
  return builder.take();
}

CountList merge_counts(std::span<const CountList* const> lists) {
  // The least word of each list that is not used up, the least of all on top.
  struct Head {
    std::string_view word;
    std::size_t list, place;
    bool operator<(const Head& other) const { return word > other.word; }
  };
  Builder builder(0);
  std::priority_queue<Head> heads;
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < lists.size(); ++i) {
    builder.add_long_words(lists[i]->long_words);
    bytes = std::max(bytes, lists[i]->text.size());
    if (lists[i]->size() > 0) {
      heads.push({lists[i]->word(0), i, 0});
    }
  }
  builder.reserve(bytes, 0);
  while (!heads.empty()) {
    Head head = heads.top();
    heads.pop();
    const CountList& list = *lists[head.list];
    builder.add(head.word, list.counts[head.place]);
    if (++head.place < list.size()) {
      head.word = list.word(head.place);
      heads.push(head);
    }
  }
  return builder.take();
}

}  // namespace edad_fast::wordpiece
