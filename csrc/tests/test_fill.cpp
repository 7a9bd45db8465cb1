// Rows filled from files of tokens: what must hold of any row, damaged files, and threads that fill different
// steps from the same files. That the numbers are numpy's is tested in Python.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "batches/fill.hpp"
#include "batches/hashing.hpp"

using namespace edad_fast::batches;

namespace {

int failures = 0;

void check(bool passed, const std::string& what) {
  if (!passed) {
    ++failures;
    std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  }
}

using Ints = std::vector<std::int64_t>;

constexpr std::int64_t kPad = 0, kCls = 1, kSep = 2, kMask = 3, kVocabSize = 50;

// Memory of exactly the sizes that `fill` asks for.
struct Memory {
  Memory(std::size_t rows, std::size_t seq_len)
      : input_ids(rows * seq_len),
        position_ids(rows * seq_len),
        token_type_ids(rows * seq_len),
        positions(rows * seq_len),
        labels(rows * seq_len),
        begins(rows * seq_len),
        masked(rows),
        begun(rows),
        tokens(rows),
        pairs(rows),
        segment_ids(rows * seq_len),
        full(rows) {}

  Rows view() {
    return {input_ids.data(), segment_ids.data(), position_ids.data(), token_type_ids.data(),
            positions.data(), labels.data(),      begins.data(),       masked.data(),
            begun.data(),     tokens.data(),      pairs.data(),        full.data()};
  }

  Ints input_ids, position_ids, token_type_ids, positions, labels, begins, masked, begun, tokens, pairs;
  std::vector<std::int32_t> segment_ids;
  std::vector<std::uint8_t> full;
  Totals totals;

  bool operator==(const Memory& other) const {
    return input_ids == other.input_ids && position_ids == other.position_ids &&
           token_type_ids == other.token_type_ids && segment_ids == other.segment_ids &&
           positions == other.positions && labels == other.labels && begins == other.begins &&
           masked == other.masked && begun == other.begun && tokens == other.tokens && pairs == other.pairs &&
           full == other.full;
  }
};

struct Layout {
  Ints row, start, length, column, origin, segment, token_type;

  Spans view() const { return {row, start, length, column, origin, segment, token_type}; }
};

struct Corpus {
  std::vector<std::int32_t> tokens;
  std::vector<std::uint8_t> special, continuation;
  Ints replacements;

  explicit Corpus(std::size_t size) : special(kVocabSize), continuation(kVocabSize) {
    std::mt19937_64 random(1);
    for (std::size_t i = 0; i < size; ++i) {
      tokens.push_back(static_cast<std::int32_t>(4 + random() % (kVocabSize - 4)));
    }
    for (std::size_t id = 0; id < kVocabSize; ++id) {
      special[id] = id < 5;
      continuation[id] = id % 3 == 0;
      if (id >= 5) {
        replacements.push_back(static_cast<std::int64_t>(id));
      }
    }
  }

  // Files of `per_file` tokens in memory of their own, so that a step over their ends is seen.
  Tokens files(std::size_t per_file, std::vector<std::vector<std::int32_t>>& memory) const {
    memory.clear();
    for (std::size_t begin = 0; begin < tokens.size(); begin += per_file) {
      const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(begin);
      memory.emplace_back(first,
                          first + static_cast<std::ptrdiff_t>(std::min(per_file, tokens.size() - begin)));
    }
    return {{memory.begin(), memory.end()}, static_cast<std::int64_t>(per_file)};
  }

  RowOptions options(std::int64_t seq_len, double probability, bool words) const {
    RowOptions options{seq_len, kCls, kSep, kPad, {special, {}, replacements, kMask, probability, 7}};
    if (words) {
      options.mask.continuation = continuation;
    }
    return options;
  }
};

// Rows of two segments at most, drawn at random; `pair`: the second shares the first's [CLS].
Layout make_layout(std::uint64_t seed, std::int64_t rows, std::int64_t seq_len, std::int64_t size,
                   bool pair) {
  std::mt19937_64 random(seed);
  const auto below = [&](std::int64_t bound) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(bound));
  };
  Layout layout;
  for (std::int64_t row = 0; row < rows; ++row) {
    std::int64_t origin = 0, column = 1;
    for (std::int64_t segment = 1; segment <= below(3) && column < seq_len; ++segment) {
      const std::int64_t length = std::min(below(seq_len - column), size);
      layout.row.push_back(row);
      layout.start.push_back(below(size - length + 1));
      layout.length.push_back(length);
      layout.column.push_back(column);
      layout.origin.push_back(origin);
      layout.segment.push_back(pair ? 1 : segment);
      layout.token_type.push_back(pair ? segment - 1 : 0);
      column += length + 1;
      if (!pair) {
        origin = column++;
      }
    }
  }
  return layout;
}

Memory run(const Tokens& tokens, const Layout& layout, const RowOptions& options, std::size_t rows) {
  Ints numbers(rows);
  for (std::size_t row = 0; row < rows; ++row) {
    numbers[row] = static_cast<std::int64_t>(row * 3 + 1);
  }
  Memory memory(rows, static_cast<std::size_t>(options.seq_len));
  memory.totals = fill(tokens, layout.view(), options, Ints(rows, 2), numbers, memory.view());
  return memory;
}

void test_rows(std::int64_t seq_len, double probability, bool words, bool pair) {
  constexpr std::size_t kRows = 40;
  const Corpus corpus(300);
  const RowOptions options = corpus.options(seq_len, probability, words);
  const Layout layout = make_layout(static_cast<std::uint64_t>(seq_len), kRows, seq_len, 300, pair);
  std::vector<std::vector<std::int32_t>> memory;
  const Memory found = run(corpus.files(300, memory), layout, options, kRows);
  const Memory plain = run(corpus.files(300, memory), layout, corpus.options(seq_len, 0.0, words), kRows);
  for (const std::size_t per_file : {1, 7, 299}) {
    check(run(corpus.files(per_file, memory), layout, options, kRows) == found, "files do not matter");
  }
  check(plain.totals.masked == 0, "probability 0");
  Ints restored = found.input_ids;
  for (std::size_t i = 0; i < found.totals.masked; ++i) {
    const auto place = static_cast<std::size_t>(found.positions[i]);
    check(i == 0 || found.positions[i] > found.positions[i - 1], "positions ascend");
    check(restored[place] == kMask || restored[place] >= 5, "what is put in");
    restored[place] = found.labels[i];
    check(found.labels[i] >= 5, "special tokens are not masked");
  }
  check(restored == plain.input_ids, "only masked positions change");
  const auto length = static_cast<std::size_t>(seq_len);
  std::size_t first = 0;
  for (std::size_t row = 0; row < kRows; ++row) {
    const auto ids = plain.input_ids.begin() + static_cast<std::ptrdiff_t>(row * length);
    const auto n = std::count_if(ids, ids + seq_len, [](std::int64_t id) { return id >= 5; });
    const auto last = first + static_cast<std::size_t>(found.masked[row]);
    if (!words) {
      const double budget = std::max(1.0, std::nearbyint(probability * static_cast<double>(n)));
      check(found.masked[row] == (n == 0 ? 0 : static_cast<std::int64_t>(budget)), "the budget is kept");
    }
    check(n == 0 || last > first, "one or more");
    for (; first < last; ++first) {
      check(static_cast<std::size_t>(found.positions[first]) / length == row, "masked counts rows");
    }
    const auto segments = plain.segment_ids.begin() + static_cast<std::ptrdiff_t>(row * length);
    std::int64_t tokens = 0, pairs = 0;
    for (std::size_t a = 0; a < length; ++a) {
      tokens += segments[static_cast<std::ptrdiff_t>(a)] > 0;
      for (std::size_t b = 0; b < length; ++b) {
        const auto left = segments[static_cast<std::ptrdiff_t>(a)];
        pairs += left > 0 && left == segments[static_cast<std::ptrdiff_t>(b)];
      }
    }
    check(found.tokens[row] == tokens && found.pairs[row] == pairs, "tokens and pairs");
  }
  check(first == found.totals.masked, "the sum of masked");
}

template <typename Error>
void check_throws(const std::function<void()>& work, const std::string& words) {
  try {
    work();
  } catch (const Error& error) {
    check(std::string(error.what()).find(words) != std::string::npos, "'" + words + "' in " + error.what());
    return;
  }
  check(false, "nothing was thrown: " + words);
}

void test_errors() {
  Corpus corpus(100);
  std::vector<std::vector<std::int32_t>> memory;
  const RowOptions options = corpus.options(16, 0.15, false);
  const Layout good{{0}, {90}, {10}, {1}, {0}, {1}, {0}};
  const auto filled = [&](const Layout& layout, const RowOptions& with) {
    return [&, layout, with] { run(corpus.files(30, memory), layout, with, 1); };
  };
  filled(good, options)();
  for (const std::int64_t start : Ints{91, 100, 1000, INT64_MAX - 3, -1, INT64_MIN}) {
    Layout layout = good;
    layout.start[0] = start;
    check_throws<std::out_of_range>(filled(layout, options), "there is no token number");
  }
  const auto broken = [&](Ints Layout::* field, std::int64_t value) {
    Layout layout = good;
    (layout.*field)[0] = value;
    check_throws<std::invalid_argument>(filled(layout, options), "does not fit");
  };
  for (const std::int64_t value : Ints{-1, 16, INT64_MAX, INT64_MIN}) {
    broken(&Layout::row, value);
    broken(&Layout::length, value);
    broken(&Layout::column, value);
    broken(&Layout::origin, value);
  }
  Layout shorter = good;
  shorter.segment.clear();
  check_throws<std::invalid_argument>(filled(shorter, options), "differ in size");
  RowOptions other = options;
  other.pad_id = kVocabSize;
  check_throws<std::invalid_argument>(filled(good, other), "outside the vocabulary");
  other = options;
  other.mask.replacements = {};
  check_throws<std::invalid_argument>(filled(good, other), "replacements");
  other = options;
  other.seq_len = 0;
  check_throws<std::invalid_argument>(filled(good, other), "seq_len");
  for (const std::int32_t token : {-1, static_cast<int>(kVocabSize), INT32_MAX, INT32_MIN}) {
    corpus.tokens[99] = token;
    check_throws<std::out_of_range>(filled(good, options), "token " + std::to_string(token) + " is outside");
  }
}

void test_threads() {
  constexpr std::size_t kRows = 64, kSteps = 8;
  const Corpus corpus(5000);
  std::vector<std::vector<std::int32_t>> memory;
  const Tokens tokens = corpus.files(700, memory);
  std::vector<Memory> expected, found(kSteps, Memory(0, 0));
  const auto step = [&](std::size_t number) {
    const Layout layout = make_layout(number, kRows, 48, 5000, number % 2 == 1);
    return run(tokens, layout, corpus.options(48, 0.15, number % 4 > 1), kRows);
  };
  for (std::size_t number = 0; number < kSteps; ++number) {
    expected.push_back(step(number));
  }
  std::vector<std::thread> threads;
  for (std::size_t thread = 0; thread < 2; ++thread) {
    threads.emplace_back([&, thread] {
      for (std::size_t number = thread; number < kSteps; number += 2) {
        found[number] = step(number);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  check(found == expected, "steps filled at the same time");
  check(expected[0].totals.masked > 100, "there is something to mask");
}

}  // namespace

int main() {
  // Of Steele, Lea and Flood's generator started at 0.
  static_assert(draw(0, 0) == 0xE220A8397B1DCDAF && draw(0, 1) == 0x6E789E6AA1B965F4);
  for (const std::int64_t seq_len : Ints{2, 5, 16, 128, 513}) {
    for (const double probability : {0.01, 0.15, 0.5, 1.0}) {
      for (const bool words : {false, true}) {
        test_rows(seq_len, probability, words, false);
        test_rows(seq_len, probability, words, true);
      }
    }
  }
  test_errors();
  test_threads();
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
