#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "wordpiece/merge.hpp"
#include "wordpiece/segment.hpp"

using edad_fast::wordpiece::CountList;
using edad_fast::wordpiece::make_count_list;
using edad_fast::wordpiece::merge;
using edad_fast::wordpiece::Merged;
using edad_fast::wordpiece::MergeEnd;
using edad_fast::wordpiece::MergeOptions;
using edad_fast::wordpiece::Segmenter;
using Items = std::vector<std::pair<std::string, std::int64_t>>;
using Pieces = std::vector<std::string>;
using Counts = std::vector<std::int64_t>;

namespace {

int failures = 0;

void check(bool passed, const char* what) {
  if (!passed) {
    ++failures;
    std::fprintf(stderr, "FAILED: %s\n", what);
  }
}

const Pieces kGeneral{"[UNK]", "a", "b", "##a", "##b", "##c", "ab"};

MergeOptions sized(std::size_t size) {
  MergeOptions options;
  options.size = size;
  return options;
}

Counts counts_of(const Pieces& pieces, const Items& items) {
  const Segmenter segmenter(pieces, 0);
  Counts counts(pieces.size());
  for (const auto& [word, count] : items) {
    const std::vector<std::string_view> words{word};
    for (const std::int32_t id : segmenter.segment(words).ids) {
      counts[static_cast<std::size_t>(id)] += count;
    }
  }
  return counts;
}

// All words are split again after every candidate.
Pieces naive(const Pieces& candidates, const Items& items, std::size_t size) {
  Pieces pieces = kGeneral;
  std::set<std::string> known(pieces.begin(), pieces.end());
  for (const std::string& candidate : candidates) {
    if (pieces.size() == size) {
      break;
    }
    if (!known.insert(candidate).second) {
      continue;
    }
    pieces.push_back(candidate);
    const Counts counts = counts_of(pieces, items);
    Pieces used(pieces.begin(), pieces.begin() + static_cast<std::ptrdiff_t>(kGeneral.size()));
    for (std::size_t id = kGeneral.size(); id < pieces.size(); ++id) {
      if (counts[id] > 0) {
        used.push_back(pieces[id]);
      }
    }
    pieces = used;
  }
  return pieces;
}

std::string random_text(std::mt19937& random, std::size_t longest) {
  std::string text;
  for (std::size_t size = 1 + random() % longest; text.size() < size;) {
    text.push_back(static_cast<char>('a' + random() % 4));  // "d" is no general piece
  }
  return text;
}

void check_random() {
  std::mt19937 random(3);
  for (int round = 0; round < 1000; ++round) {
    std::map<std::string, std::int64_t> words;
    for (std::size_t i = random() % 15; i > 0; --i) {
      words[random_text(random, 9)] += 1 + static_cast<std::int64_t>(random() % 9);
    }
    Pieces candidates;
    for (std::size_t i = random() % 40; i > 0; --i) {
      candidates.push_back((random() % 2 == 0 ? "" : "##") + random_text(random, 5));
    }
    const Items items(words.begin(), words.end());
    const std::size_t size = kGeneral.size() + random() % 20;
    const Merged merged = merge(kGeneral, candidates, make_count_list(items), sized(size));
    check(merged.pieces == naive(candidates, items, size), "as if all words were split at every step");
    check(merged.counts == counts_of(merged.pieces, items), "counts as in an independent pass");
    check((merged.end == MergeEnd::candidates) == (merged.pieces.size() < size),
          "too few candidates are named");
    double value = 0;
    for (const std::int64_t count : merged.counts) {
      const double all = static_cast<double>(merged.curve.back().tokens);
      value += count > 0 ? static_cast<double>(count) * std::log(static_cast<double>(count) / all) : 0;
    }
    if (merged.end == MergeEnd::size) {
      check(std::abs(value - merged.curve.back().log_likelihood) < 1e-9 * (1 + std::abs(value)),
            "log-likelihood");
    }
  }
}

void check_automatic() {
  Items items;
  Pieces candidates;
  for (int i = 0; i < 40; ++i) {
    std::string word;
    for (int bit = 0; bit < 6; ++bit) {
      word.push_back((i >> bit) % 2 == 0 ? 'a' : 'b');
    }
    items.emplace_back(word, 1 + 4000 / (i + 1) / (i + 1));
    candidates.push_back(word);
  }
  MergeOptions options;
  options.automatic = true;
  options.interval = 3;
  options.max_size = kGeneral.size() + 30;
  options.threshold = 0.06;
  const CountList list = make_count_list(items);
  const Merged merged = merge(kGeneral, candidates, list, options);
  check(merged.end == MergeEnd::threshold && merged.steps.size() > 2, "the threshold ends the search");
  for (std::size_t i = 0; i < merged.steps.size(); ++i) {
    check(merged.steps[i].size == kGeneral.size() + 3 * i, "it looks at every interval");
    check(i == 0 ? std::isnan(merged.steps[i].gain)
                 : (merged.steps[i].gain <= 0.06) == (i + 1 == merged.steps.size()),
          "and ends at the first small gain");
  }
  check(merged.pieces.size() == merged.steps.back().size, "with the vocabulary of that moment");
  check(merge(kGeneral, candidates, list, sized(merged.pieces.size())).pieces == merged.pieces,
        "as if asked for");
  options.threshold = -1;
  check(merge(kGeneral, candidates, list, options).end == MergeEnd::max_size, "the greatest size ends it");
  options.max_size = 1000;
  check(merge(kGeneral, candidates, list, options).end == MergeEnd::candidates, "the candidates end it");
}

bool rejects(const Pieces& general, const Pieces& candidates, const MergeOptions& options,
             std::string_view words) {
  try {
    merge(general, candidates, CountList(), options);
  } catch (const std::invalid_argument& error) {
    return std::string_view(error.what()).find(words) != std::string_view::npos;
  }
  return false;
}

}  // namespace

int main() {
  const CountList list = make_count_list({{"abab", 5}, {"abc", 3}, {"dd", 2}}, 4);
  const Merged merged = merge(kGeneral, {"aba", "a", "abab", "zz", "dd", "abc"}, list, sized(10));
  check(merged.pieces == Pieces({"[UNK]", "a", "b", "##a", "##b", "##c", "ab", "abab", "dd", "abc"}),
        "a piece that no word uses any more goes; the others come in order, known ones not again");
  check(merged.counts == Counts({4, 0, 0, 0, 0, 0, 0, 5, 2, 3}) && merged.passed_over == 2, "counts");
  check(merge(kGeneral, {"aba"}, list, sized(7)).pieces == kGeneral, "nothing wanted");

  // A longer first piece can leave a rest that nothing fits; another piece, or its end, puts that right.
  const Pieces few{"[UNK]", "a", "##bc"};
  const CountList used = make_count_list({{"ab", 1}, {"abc", 5}});
  const Merged stuck = merge(few, {"ab"}, used, sized(4));
  check(stuck.counts == Counts({5, 0, 0, 1}), "a dead end");
  check(merge(few, {"ab", "##c"}, used, sized(5)).counts == Counts({0, 0, 0, 6, 5}), "the rest fits again");
  const Merged unused = merge(few, {"ab"}, make_count_list({{"abc", 5}}), sized(4));
  check(unused.pieces == few && unused.counts == Counts({0, 5, 5}),
        "no piece that only leads into dead ends");
  const Merged later = merge(few, {"ab", "abd"}, make_count_list({{"abc", 5}, {"abd", 1}}), sized(4));
  check(later.counts == Counts({0, 5, 5, 1}) && later.pieces.back() == "abd", "a whole word");

  check_random();
  check_automatic();

  MergeOptions options = sized(5);
  options.reuse_unused = true;
  options.pad_to_multiple = 4;
  const Merged reused = merge({"[UNK]", "[unused5]", "a", "##a"}, {"aa", "aaa"},
                              make_count_list({{"aa", 1}, {"aaa", 1}}), options);
  check(reused.pieces == Pieces({"[UNK]", "aa", "a", "##a", "aaa", "[unused0]", "[unused1]", "[unused2]"}),
        "unused rows first, then new ones, then padding");
  check(reused.padding == 3 && reused.added == std::vector<std::int32_t>({1, 4}), "where they are");

  check(rejects({"[UNK]", "a", "a"}, {}, sized(9), "general piece 2 ('a') appears twice"), "a duplicate");
  check(rejects({"[UNK]"}, {""}, sized(9), "candidate 0 is empty"), "an empty piece");
  check(rejects({}, {}, sized(9), "unk_id 0 is outside the 0 general pieces"), "no [UNK]");
  check(rejects(kGeneral, {}, sized(6), "size 6 is below the general vocabulary's 7"), "too small a size");
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
