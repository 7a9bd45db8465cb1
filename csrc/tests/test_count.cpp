#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "wordpiece/count.hpp"

using namespace edad_fast::wordpiece;

namespace {

int failures = 0;

void check(bool passed, const char* what) {
  if (!passed) {
    ++failures;
    std::fprintf(stderr, "FAILED: %s\n", what);
  }
}

CountList count(const std::string& text, std::size_t n_threads, bool whole) {
  WordCounter counter({}, 100);
  if (whole) {
    counter.add_utf8(text, n_threads);
  } else {
    const std::vector<TextView> texts{{text.data(), text.size(), TextView::Kind::utf8}};
    counter.add(texts, n_threads);
  }
  return counter.finish();
}

}  // namespace

int main() {
  const std::string text =
      "The cat, the CAT; \u00c9t\u00e9 \u4e2d\u4e2d averyverylongwordindeed averyverylongwordindeed "
      "sixteenletters16 "
      "seventeenletters7 " +
      std::string(101, 'x') + " " + std::string(100, 'y');
  const CountList list = count(text, 1, false);
  const std::map<std::string, std::int64_t> expected{{"the", 2},
                                                     {"cat", 2},
                                                     {",", 1},
                                                     {";", 1},
                                                     {"ete", 1},
                                                     {"\u4e2d", 2},
                                                     {"averyverylongwordindeed", 2},
                                                     {"sixteenletters16", 1},
                                                     {"seventeenletters7", 1},
                                                     {std::string(100, 'y'), 1}};
  std::map<std::string, std::int64_t> found;
  for (std::size_t i = 0; i < list.size(); ++i) {
    found.emplace(list.word(i), list.counts[i]);
    check(i == 0 || list.word(i - 1) < list.word(i), "by ascending bytes");
  }
  check(found == expected, "words and counts");
  check(list.long_words == 1, "a word of 101 characters");
  check(list.total() == 15, "total");

  std::string many;
  for (int i = 0; i < 300000; ++i) {
    many += 'w';
    many += std::to_string(std::int64_t{i} * 7919 % 100003);
    many += i % 3 == 0 ? "\u03b2 " : " ";
    if (i % 5 == 0) {
      many += "alongerwordthansixteen";
      many += std::to_string(i % 4001);
      many += '\n';
    }
  }
  const CountList one = count(many, 1, false);
  check(one.size() > 100003, "tables grow");
  check(count(many, 1, true) == one && count(many, 3, true) == one && count(many, 7, true) == one,
        "cut or whole, any number of threads");
  WordCounter counter({}, 100);
  check(counter.finish().size() == 0, "nothing");
  counter.add_utf8("a", 1);
  check(counter.finish().size() == 1 && counter.finish().size() == 0, "empty after finish");
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
