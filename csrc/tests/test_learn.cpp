#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "wordpiece/learn.hpp"

using edad_fast::wordpiece::CountList;
using edad_fast::wordpiece::Criterion;
using edad_fast::wordpiece::learn;
using edad_fast::wordpiece::Learned;
using edad_fast::wordpiece::LearnOptions;
using edad_fast::wordpiece::make_count_list;
using Items = std::vector<std::pair<std::string, std::int64_t>>;
using Pieces = std::vector<std::string>;

namespace {

int failures = 0;

void check(bool passed, const char* what) {
  if (!passed) {
    ++failures;
    std::fprintf(stderr, "FAILED: %s\n", what);
  }
}

LearnOptions options_of(std::size_t size, Criterion criterion, std::int64_t min_frequency = 1) {
  LearnOptions options;
  options.size = size;
  options.criterion = criterion;
  options.min_frequency = min_frequency;
  return options;
}

Pieces pieces_of(const Items& items, const LearnOptions& options) {
  return learn(make_count_list(items), options).pieces;
}

// The best pair after counting all of them again; words of letters from a to z.
Pieces naive(const Items& items, const LearnOptions& options) {
  Pieces pieces;
  std::map<std::string, std::size_t> ids;
  const auto add = [&](const std::string& piece) {
    return ids.try_emplace(piece, pieces.size()).second ? (pieces.push_back(piece), pieces.size() - 1)
                                                        : ids[piece];
  };
  for (const bool inside : {false, true}) {
    for (char letter = 'a'; letter <= 'z'; ++letter) {
      for (const auto& [word, count] : items) {
        if (inside ? word.find(letter, 1) != std::string::npos : word[0] == letter) {
          add((inside ? "##" : "") + std::string(1, letter));
        }
      }
    }
  }
  std::vector<std::vector<std::size_t>> split;
  for (const auto& [word, count] : items) {
    std::vector<std::size_t>& symbols = split.emplace_back();
    for (std::size_t i = 0; i < word.size(); ++i) {
      symbols.push_back(ids[(i > 0 ? "##" : "") + std::string(1, word[i])]);
    }
  }
  while (pieces.size() < options.size) {
    std::map<std::size_t, std::int64_t> singles;
    std::map<std::pair<std::size_t, std::size_t>, std::int64_t> pairs;
    for (std::size_t w = 0; w < items.size(); ++w) {
      for (std::size_t i = 0; i < split[w].size(); ++i) {
        singles[split[w][i]] += items[w].second;
        if (i > 0) {
          pairs[{split[w][i - 1], split[w][i]}] += items[w].second;
        }
      }
    }
    const std::pair<const std::pair<std::size_t, std::size_t>, std::int64_t>* best = nullptr;
    const auto base = [&](const auto& pair) {
      return options.criterion == Criterion::frequency
                 ? 1
                 : singles[pair.first.first] * singles[pair.first.second];
    };
    for (const auto& pair : pairs) {  // in the order of ids: the first of equal ones stays
      if (pair.second >= options.min_frequency &&
          (best == nullptr || pair.second * base(*best) > best->second * base(pair))) {
        best = &pair;
      }
    }
    if (best == nullptr) {
      break;
    }
    const auto [left, right] = best->first;
    const std::size_t merged = add(pieces[left] + pieces[right].substr(2));
    for (std::vector<std::size_t>& symbols : split) {
      for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
        if (symbols[i] == left && symbols[i + 1] == right) {
          symbols[i] = merged;
          symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        }
      }
    }
  }
  pieces.resize(std::min(pieces.size(), options.size));
  return pieces;
}

void check_random(Criterion criterion) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::map<std::string, std::int64_t> words;
    const auto letters = 1 + random() % 5;
    for (int i = 0; i < 30; ++i) {
      std::string word;
      for (std::size_t size = 1 + random() % 9; word.size() < size;) {
        word.push_back(static_cast<char>('a' + random() % letters));
      }
      words[word] += 1 + static_cast<std::int64_t>(random() % 9);
    }
    const Items items(words.begin(), words.end());
    const LearnOptions options =
        options_of(random() % 80, criterion, 1 + static_cast<std::int64_t>(random() % 5));
    // The naive one keeps every letter: do not let the least frequency drop one.
    std::map<char, std::int64_t> counts;
    for (const auto& [word, count] : items) {
      for (const char letter : word) {
        counts[letter] += count;
      }
    }
    if (std::ranges::all_of(counts, [&](const auto& one) { return one.second >= options.min_frequency; })) {
      check(pieces_of(items, options) == naive(items, options), "as if all pairs were counted at every step");
    }
  }
}

}  // namespace

int main() {
  const auto frequency = [](std::size_t size) { return options_of(size, Criterion::frequency); };
  check(pieces_of({{"ab", 5}, {"cd", 9}}, frequency(9)) == Pieces({"a", "c", "##b", "##d", "cd", "ab"}),
        "letters, then pairs by falling count");
  check(pieces_of({{"ab", 5}, {"cd", 5}}, frequency(9)).back() == "cd", "ties: the smaller ids first");
  check(pieces_of({{"aaaa", 2}}, frequency(9)) == Pieces({"a", "##a", "##aa", "aaa", "aaaa"}),
        "overlapping pairs");
  check(pieces_of({{"ab", 5}, {"cd", 9}}, frequency(2)) == Pieces({"a", "c"}), "fewer pieces than letters");
  check(pieces_of({}, frequency(9)).empty(), "no words");
  check(
      pieces_of({{"ab", 2}, {"cd", 1}}, options_of(9, Criterion::frequency, 2)) == Pieces({"a", "##b", "ab"}),
      "rare characters take their words with them");
  check(
      pieces_of({{"ab", 1000}, {"xy", 4}, {"ac", 999}, {"db", 999}}, options_of(9, Criterion::likelihood, 2))
              .at(6) == "xy",
      "likelihood prefers what is seldom apart");

  LearnOptions limited = frequency(99);
  limited.max_piece_chars = 2;
  check(pieces_of({{"abcd", 5}}, limited) == Pieces({"a", "##b", "##c", "##d", "ab", "##cd"}),
        "short pieces only");
  limited = frequency(99);
  limited.alphabet_limit = 2;
  check(pieces_of({{"\u03b2a", 5}, {"c", 4}}, limited) == Pieces({"\u03b2", "##a",
                                                                  "\u03b2"
                                                                  "a"}),
        "few letters");
  limited = frequency(99);
  limited.max_word_chars = 2;
  check(
      pieces_of({{"\u03b2\u03b2", 5}, {"abc", 4}}, limited) == Pieces({"\u03b2", "##\u03b2", "\u03b2\u03b2"}),
      "short words only, in characters");
  const Learned counted = learn(make_count_list({{"ab", 5}, {"abb", 2}}), frequency(9));
  check(counted.pieces == Pieces({"a", "##b", "ab", "abb"}), "a word grows");
  check(counted.counts == std::vector<std::int64_t>({7, 9, 7, 2}), "counts");

  check_random(Criterion::frequency);
  check_random(Criterion::likelihood);

  std::size_t calls = 0;
  const CountList list = make_count_list({{"abcdefgh", 5}});
  learn(list, frequency(15), [&](std::size_t, std::size_t) { return ++calls > 0; });
  check(calls == 7, "progress before every step of a small vocabulary");
  try {
    learn(list, frequency(15), [](std::size_t done, std::size_t) { return done < 10; });
    check(false, "an interrupted run ends");
  } catch (const std::runtime_error& error) {
    check(std::string_view(error.what()) == "interrupted", "an interrupted run says so");
  }
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
