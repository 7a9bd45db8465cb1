// Counts the words of texts: normalised and split as the encoder does it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "count_list.hpp"
#include "normalize.hpp"
#include "text.hpp"

namespace edad_fast::wordpiece {

// Not for several threads at once; add() itself works on several. Memory: a table of the distinct words a
// thread, and little else.
class WordCounter {
 public:
  // Words of more than max_chars characters, which BERT never splits, are counted but not kept.
  WordCounter(NormalizerOptions options, std::size_t max_chars);
  ~WordCounter();
  WordCounter(WordCounter&&) noexcept;
  WordCounter& operator=(WordCounter&&) noexcept;

  // A word does not reach across texts. Counts do not depend on n_threads.
  // Throws std::invalid_argument naming the text: half of a surrogate pair, in mode Compat::hf; the counter
  // must not be used after that.
  void add(std::span<const TextView> texts, std::size_t n_threads);

  // As add(), of one UTF-8 text, cut at white space to be shared by the threads.
  void add_utf8(std::string_view text, std::size_t n_threads);

  // The counts of all that was added; the counter is empty afterwards.
  CountList finish();

 private:
  struct Worker;

  Normalizer normalizer_;
  bool lowercase_;
  bool replace_surrogates_;
  std::size_t max_chars_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace edad_fast::wordpiece
