// Counting, learning and encoding give the same with any number of threads, and share nothing by accident:
// run it under ThreadSanitizer (make sanitize).
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "hostile.hpp"
#include "wordpiece/count.hpp"
#include "wordpiece/encode.hpp"
#include "wordpiece/learn.hpp"

using namespace edad_fast::wordpiece;
using edad_fast::tests::hostile_text;
using edad_fast::tests::test_pieces;

namespace {

int failures = 0;

void check(bool passed, const std::string& what) {
  if (!passed) {
    ++failures;
    std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  }
}

constexpr std::size_t kThreads = 4;

// Runs work(0) to work(kThreads - 1), all at once.
template <typename Work>
void all_at_once(Work work) {
  std::vector<std::thread> threads;
  for (std::size_t number = 0; number < kThreads; ++number) {
    threads.emplace_back(work, number);
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

std::vector<TextView> views_of(const std::vector<std::string>& texts) {
  std::vector<TextView> views;
  for (const std::string& text : texts) {
    views.push_back({text.data(), text.size(), TextView::Kind::utf8});
  }
  return views;
}

std::vector<std::string> make_texts(std::size_t count, std::size_t words, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < count; ++i) {
    texts.push_back(hostile_text(random, words));
  }
  return texts;
}

template <typename T>
bool same(const Buffer<T>& a, const Buffer<T>& b) {
  return a.size() == b.size() &&
         (a.size() == 0 || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

bool same(const Encoded& a, const Encoded& b) {
  return same(a.ids, b.ids) && same(a.row_offsets, b.row_offsets) && same(a.spans, b.spans) &&
         same(a.words, b.words);
}

EncoderOptions encoder_options(Compat compat) {
  EncoderOptions options;
  options.normalizer.compat = compat;
  options.unk_id = 1;
  options.literals = {{"[MASK]", 4}, {"[SEP]", 3}};
  return options;
}

// Before anything else, so that the threads meet while shared tables are made.
void test_first_use() {
  const std::vector<std::string> pieces = test_pieces();
  const std::string text = "\u03a3\u0391\u03a3 na\u00efve \uac01";
  const std::vector<TextView> views{{text.data(), text.size(), TextView::Kind::utf8}};
  std::vector<Encoded> found(kThreads);
  all_at_once([&](std::size_t number) {
    const Compat compat = number % 2 == 0 ? Compat::hf : Compat::slow;
    found[number] = Encoder(pieces, encoder_options(compat)).encode(views, 1, true);
  });
  check(same(found[0], found[2]) && same(found[1], found[3]), "encoders made at the same time");
}

void test_encode(Compat compat) {
  const Encoder encoder(test_pieces(), encoder_options(compat));
  std::vector<std::string> texts = make_texts(400, 40, 1);
  texts.push_back(
      hostile_text(*std::make_unique<std::mt19937_64>(2), 60'000));  // longer than a share of work
  const std::vector<TextView> views = views_of(texts);
  const Encoded expected = encoder.encode(views, 1, true);
  check(expected.ids.size() > 50'000, "there is something to encode");
  for (const std::size_t n_threads : {2, 7}) {
    check(same(encoder.encode(views, n_threads, true), expected), "encoding with threads");
  }
  // One encoder, with the caches of words that it keeps, used by several threads that have threads.
  std::vector<Encoded> found(kThreads);
  all_at_once([&](std::size_t number) {
    for (int round = 0; round < 2; ++round) {
      found[number] = encoder.encode(views, 1 + number % 2, true);
    }
  });
  for (const Encoded& encoded : found) {
    check(same(encoded, expected), "threads that share an encoder");
  }
}

void test_errors_in_threads() {
  const Encoder encoder(test_pieces(), encoder_options(Compat::hf));
  const std::u16string broken = u"a\xd800";
  std::vector<std::string> texts = make_texts(3000, 30, 3);
  std::vector<TextView> views = views_of(texts);
  const Encoded expected = encoder.encode(views, 1, false);
  std::vector<TextView> bad = views;
  for (const std::size_t place : {1200u, 2700u}) {
    bad[place] = {broken.data(), broken.size(), TextView::Kind::ucs2};
  }
  for (const std::size_t n_threads : {1, 2, 7}) {
    std::string message;
    try {
      encoder.encode(bad, n_threads, false);
    } catch (const std::invalid_argument& error) {
      message = error.what();
    }
    check(message.find("texts[1200]") != std::string::npos,
          "the first bad text is named, not '" + message + "'");
    check(same(encoder.encode(views, n_threads, false), expected), "an encoder works on after an error");
  }
}

CountList count(const std::vector<std::string>& texts, std::size_t n_threads, std::size_t step) {
  WordCounter counter(NormalizerOptions{}, 100);
  const std::vector<TextView> views = views_of(texts);
  for (std::size_t begin = 0; begin < views.size(); begin += step) {
    counter.add(std::span(views).subspan(begin, std::min(step, views.size() - begin)), n_threads);
  }
  return counter.finish();
}

void test_count_and_learn() {
  const std::vector<std::string> texts = make_texts(4000, 60, 5);
  const CountList expected = count(texts, 1, texts.size());
  check(expected.total() > 100'000, "there is something to count");
  for (const std::size_t n_threads : {1, 2, 7}) {
    check(count(texts, n_threads, 1111) == expected, "counting with threads, in several calls");
  }
  std::string whole;
  for (const std::string& text : texts) {
    whole += text;
    whole += '\n';
  }
  for (const std::size_t n_threads : {1, 2, 7}) {
    WordCounter counter(NormalizerOptions{}, 100);
    counter.add_utf8(whole, n_threads);
    check(counter.finish() == expected, "counting one long text");
    counter.add_utf8(whole, n_threads);
    check(counter.finish() == expected, "a counter used again");
  }
  LearnOptions options;
  options.size = 2000;
  std::vector<CountList> counts(kThreads);
  std::vector<Learned> learned(kThreads);
  all_at_once([&](std::size_t number) {
    counts[number] = count(texts, 2, texts.size());
    learned[number] = learn(counts[number], options);
  });
  for (std::size_t number = 0; number < kThreads; ++number) {
    check(counts[number] == expected, "counters at the same time");
    check(learned[number].pieces == learned[0].pieces, "learning at the same time");
  }
  check(learned[0].pieces.size() == 2000, "there is enough to learn");
}

}  // namespace

int main() {
  test_first_use();
  test_encode(Compat::hf);
  test_encode(Compat::slow);
  test_errors_in_threads();
  test_count_and_learn();
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
