#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "wordpiece/segment.hpp"

using edad_fast::wordpiece::Segmentation;
using edad_fast::wordpiece::Segmenter;
using Ids = std::vector<std::int32_t>;

namespace {

int failures = 0;

void check(bool passed, const char* what) {
  if (!passed) {
    ++failures;
    std::fprintf(stderr, "FAILED: %s\n", what);
  }
}

bool rejects(const std::vector<std::string>& pieces, std::int32_t unk_id, std::string_view words_of_message) {
  try {
    Segmenter(pieces, unk_id);
  } catch (const std::invalid_argument& error) {
    return std::string_view(error.what()).find(words_of_message) != std::string_view::npos;
  }
  return false;
}

Ids ids_of(const Segmenter& segmenter, std::string_view word, bool as_continuation = false) {
  const std::vector<std::string_view> words{word};
  return segmenter.segment(words, as_continuation).ids;
}

}  // namespace

int main() {
  const std::vector<std::string> pieces{"[UNK]", "un",     "una",      "##aff",    "##able", "##a", "able",
                                        "##b",   "\u03b2", "##\u03b2", "##\u20ac", "##",     "#"};
  const Segmenter segmenter(pieces, 0);

  check(ids_of(segmenter, "unab") == Ids({2, 7}), "the longest piece wins");
  check(ids_of(segmenter, "unable") == Ids({0}), "no way back from a greedy choice to 'un' + '##able'");
  check(ids_of(segmenter, "unb") == Ids({1, 7}), "two pieces");
  check(ids_of(segmenter, "able") == Ids({6}), "a whole word");
  check(ids_of(segmenter, "able", true) == Ids({4}), "a whole word as continuation");
  check(ids_of(segmenter, "un", true) == Ids({0}), "no continuation piece fits");
  check(ids_of(segmenter, "").empty(), "an empty word has no pieces");
  check(ids_of(segmenter, "\u03b2\u03b2\u20ac") == Ids({8, 9, 10}), "two- and three-byte characters");
  check(ids_of(segmenter, "\u03b3") == Ids({0}), "shares its first byte with a piece, but is none");
  check(ids_of(segmenter, "##able") == Ids({4}), "a word may be a continuation piece as it stands");
  check(ids_of(segmenter, "un##") == Ids({0}), "the bare prefix continues nothing");

  const Segmenter short_words(pieces, 0, "##", 3);
  check(ids_of(short_words, "\u03b2\u03b2\u03b2") == Ids({8, 9, 9}),
        "max_chars counts characters, not bytes");
  check(ids_of(short_words, "\u03b2\u03b2\u03b2\u03b2") == Ids({0}), "one character above max_chars");

  const std::vector<std::string_view> words{"unb", "", "nothing", "able"};
  const Segmentation batch = segmenter.segment(words);
  check(batch.ids == Ids({1, 7, 0, 6}), "ids of several words");
  check(batch.offsets == std::vector<std::int64_t>({0, 2, 2, 3, 4}), "offsets of several words");
  check(segmenter.segment({}).offsets == std::vector<std::int64_t>({0}), "no words");

  const Segmenter other_prefix(pieces, 0, "u");
  check(ids_of(other_prefix, "unn") == Ids({1, 1}), "the prefix is the caller's: 'un' continues as 'n'");

  check(rejects({"[UNK]", "a", "b", "a"}, 0, "'a' appears twice: ids 1 and 3"), "a duplicate piece");
  check(rejects({"[UNK]", ""}, 0, "piece 1 is empty"), "an empty piece");
  check(rejects({"[UNK]"}, 1, "unk_id 1 is outside the 1 pieces"), "unk_id behind the last piece");
  check(rejects({"[UNK]"}, -1, "unk_id -1"), "unk_id below 0");
  check(rejects({}, 0, "unk_id 0"), "no pieces");

  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
