#include "learn.hpp"

#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "alphabet.hpp"
#include "frequency_queue.hpp"
#include "likelihood_queue.hpp"
#include "pair_table.hpp"

namespace edad_fast::wordpiece {
namespace {

constexpr std::size_t kProgressCalls = 256;
constexpr std::size_t kAhead = 8;  // steps by which memory is asked for before it is used

// What one merge finds on one side of the merged pair, by neighbouring symbol.
class Neighbours {
 public:
  struct Sum {
    std::int64_t weight = 0;      // occurrences
    std::uint32_t words = 0;      // different words
    std::uint32_t last_word = 0;  // the last of them, + 1
    std::uint32_t place = 0;
  };

  void add(Symbol symbol, std::uint32_t word, std::int64_t count) {
    Sum& sum = sums_[symbol];
    if (sum.last_word == 0) {
      symbols_.push_back(symbol);
    }
    sum.weight += count;
    if (sum.last_word != word + 1) {
      sum.last_word = word + 1;
      ++sum.words;
      log_.emplace_back(symbol, word);
    }
  }

  void resize(std::size_t symbols) { sums_.resize(symbols); }
  const std::vector<Symbol>& symbols() const { return symbols_; }
  const std::vector<std::pair<Symbol, std::uint32_t>>& log() const { return log_; }
  Sum& operator[](Symbol symbol) { return sums_[symbol]; }

  void clear() {
    for (const Symbol symbol : symbols_) {
      sums_[symbol] = {};
    }
    symbols_.clear();
    log_.clear();
  }

 private:
  std::vector<Sum> sums_;
  std::vector<Symbol> symbols_;                        // those with a sum
  std::vector<std::pair<Symbol, std::uint32_t>> log_;  // symbol, word
};

template <typename Queue>
class Learner {
 public:
  Learner(SplitWords words, const LearnOptions& options)
      : options_(options),
        words_(std::move(words)),
        frequencies_(std::move(words_.frequencies)),
        lengths_(words_.letters.size(), 1),
        queue_(pairs_, frequencies_, options.min_frequency) {
    result_.pieces = std::move(words_.letters);
    result_.counts = frequencies_;
    for (Symbol symbol = 0; symbol < result_.pieces.size(); ++symbol) {
      symbols_.emplace(result_.pieces[symbol], symbol);
    }
    count_pairs();
  }

  Learned run(const Progress& progress) {
    const std::size_t interval = std::max<std::size_t>(1, options_.size / kProgressCalls);
    for (std::size_t step = 0; result_.pieces.size() < options_.size; ++step) {
      if (step % interval == 0 && progress && !progress(result_.pieces.size(), options_.size)) {
        throw std::runtime_error("interrupted");
      }
      const std::uint32_t best = queue_.pop();
      if (best == PairTable::kNone) {
        break;
      }
      merge(best);
    }
    if (result_.pieces.size() > options_.size) {
      result_.pieces.resize(options_.size);
      result_.counts.resize(options_.size);
    }
    return std::move(result_);
  }

 private:
  std::uint32_t find_or_add(PairKey key) {
    const std::size_t before = pairs_.size();
    const std::uint32_t index = pairs_.find_or_add(key);
    if (pairs_.size() != before && options_.max_piece_chars != 0) {
      const std::size_t length = lengths_[left_of(key)] + lengths_[right_of(key)];
      pairs_[index].blocked = length > options_.max_piece_chars;
    }
    return index;
  }

  void count_pairs() {
    struct Seen {
      std::uint32_t words = 0, last_word = 0, place = 0;
    };
    std::vector<Seen> seen;
    const auto for_each_pair = [&](auto&& visit) {
      for (const std::uint32_t word : words_.words) {
        const std::uint32_t* symbols = &words_.cells[word + SplitWords::kHead];
        for (std::uint32_t i = 1; i < words_.cells[word]; ++i) {
          visit(word, pair_key(symbols[i - 1], symbols[i]));
        }
      }
    };
    for_each_pair([&](std::uint32_t word, PairKey key) {
      const std::uint32_t index = find_or_add(key);
      seen.resize(pairs_.size());
      pairs_[index].count += words_.count(word);
      if (seen[index].last_word != word + 1) {
        seen[index].last_word = word + 1;
        ++seen[index].words;
      }
    });
    for (std::uint32_t index = 0; index < pairs_.size(); ++index) {
      seen[index].place = pairs_.add_places(index, seen[index].words);
      seen[index].last_word = 0;
      queue_.changed(index);
    }
    for_each_pair([&](std::uint32_t word, PairKey key) {
      Seen& pair = seen[pairs_.find(key)];
      if (pair.last_word != word + 1) {
        pair.last_word = word + 1;
        pairs_.set_word(pair.place++, word);
      }
    });
  }

  // The symbol that the two spell together: a new one unless the piece is there already.
  Symbol symbol_of(Symbol left, Symbol right, std::int64_t count) {
    std::string_view tail = result_.pieces[right];
    if (tail.starts_with(options_.prefix)) {
      tail.remove_prefix(options_.prefix.size());
    }
    std::string piece = result_.pieces[left];
    piece += tail;
    const auto [found, is_new] = symbols_.try_emplace(piece, static_cast<Symbol>(result_.pieces.size()));
    if (is_new) {
      result_.pieces.push_back(std::move(piece));
      result_.counts.push_back(count);
      frequencies_.push_back(0);
      lengths_.push_back(lengths_[left] + lengths_[right]);
    }
    return found->second;
  }

  void merge(std::uint32_t index) {
    const PairKey key = pairs_[index].key;
    const Symbol left = left_of(key);
    const Symbol right = right_of(key);
    const Symbol merged = symbol_of(left, right, pairs_[index].count);
    left_side_.resize(result_.pieces.size());
    right_side_.resize(result_.pieces.size());
    std::int64_t times = 0;
    pairs_.take_places(index, [&](std::span<const std::uint32_t> words) {
      for (std::size_t i = 0; i < words.size(); ++i) {
        if (i + kAhead < words.size()) {
          prefetch(words[i + kAhead]);
        }
        times += merge_in_word(words[i], left, right, merged);
      }
    });
    pairs_[index].count -= times;
    frequencies_[left] -= times;
    frequencies_[right] -= times;
    frequencies_[merged] += times;

    // The right side first: a pair (merged, left) that it adds, in a word such as "abab", may vanish again on
    // the left side.
    risen_.clear();
    update(
        right_side_, [&](Symbol next) { return pair_key(right, next); },
        [&](Symbol next) { return pair_key(merged, next); });
    update(
        left_side_, [&](Symbol before) { return pair_key(before, left); },
        [&](Symbol before) { return pair_key(before, merged); });
    for (const std::uint32_t risen : risen_) {
      queue_.changed(risen);
    }
    if constexpr (Queue::kNeedsEveryChange) {
      queue_.changed(index);
      queue_.frequency_changed(left);
      queue_.frequency_changed(right);
      queue_.frequency_changed(merged);
    }
  }

  void prefetch(std::uint32_t word) const {
#if defined(__GNUC__)
    __builtin_prefetch(&words_.cells[word], 1);
#else
    static_cast<void>(word);
#endif
  }

  // Returns how many occurrences were merged, repetitions of the word included.
  std::int64_t merge_in_word(std::uint32_t word, Symbol left, Symbol right, Symbol merged) {
    const std::uint32_t size = words_.cells[word];
    std::uint32_t* symbols = &words_.cells[word + SplitWords::kHead];
    std::uint32_t in = 0;
    while (in + 1 < size && !(symbols[in] == left && symbols[in + 1] == right)) {
      ++in;
    }
    if (in + 1 >= size) {
      return 0;
    }
    const std::int64_t count = words_.count(word);
    std::int64_t times = 0;
    std::uint32_t out = in;
    while (in < size) {
      if (in + 1 < size && symbols[in] == left && symbols[in + 1] == right) {
        if (out > 0) {
          left_side_.add(symbols[out - 1], word, count);
        }
        if (in + 2 < size) {
          right_side_.add(symbols[in + 2], word, count);
        }
        symbols[out++] = merged;
        in += 2;
        times += count;
      } else {
        symbols[out++] = symbols[in++];
      }
    }
    words_.cells[word] = out;
    return times;
  }

  // Moves the occurrences on one side from the old pairs to the new ones.
  template <typename OldKey, typename NewKey>
  void update(Neighbours& side, OldKey old_key, NewKey new_key) {
    const std::vector<Symbol>& symbols = side.symbols();
    for (std::size_t i = 0; i < symbols.size(); ++i) {
      if (i + kAhead < symbols.size()) {
        pairs_.prefetch(old_key(symbols[i + kAhead]));
        pairs_.prefetch(new_key(symbols[i + kAhead]));
      }
      Neighbours::Sum& sum = side[symbols[i]];
      const std::uint32_t old_index = pairs_.find(old_key(symbols[i]));
      pairs_[old_index].count -= sum.weight;
      const std::uint32_t new_index = find_or_add(new_key(symbols[i]));
      pairs_[new_index].count += sum.weight;
      sum.place = pairs_.add_places(new_index, sum.words);
      risen_.push_back(new_index);
      if constexpr (Queue::kNeedsEveryChange) {
        risen_.push_back(old_index);
      }
    }
    for (const auto& [symbol, word] : side.log()) {
      pairs_.set_word(side[symbol].place++, word);
    }
    side.clear();
  }

  const LearnOptions& options_;
  SplitWords words_;
  PairTable pairs_;
  std::vector<std::int64_t> frequencies_;  // occurrences of each symbol
  std::vector<std::size_t> lengths_;       // characters of each symbol
  std::unordered_map<std::string, Symbol> symbols_;
  Queue queue_;
  Neighbours left_side_, right_side_;
  std::vector<std::uint32_t> risen_;  // pairs whose counts changed
  Learned result_;
};

}  // namespace

Learned learn(const CountList& list, const LearnOptions& options, const Progress& progress) {
  if (options.min_frequency < 1) {
    throw std::invalid_argument("min_frequency is " + std::to_string(options.min_frequency) +
                                "; give 1 or more");
  }
  if (options.prefix.empty()) {
    throw std::invalid_argument("the prefix is empty: pieces inside a word need one, such as ##");
  }
  SplitWords words = split_words(list, options);
  if (options.criterion == Criterion::likelihood) {
    return Learner<LikelihoodQueue>(std::move(words), options).run(progress);
  }
  return Learner<FrequencyQueue>(std::move(words), options).run(progress);
}

}  // namespace edad_fast::wordpiece
