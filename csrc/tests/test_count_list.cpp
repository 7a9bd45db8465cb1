#include <cstdio>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "wordpiece/count_list.hpp"
#include "wordpiece/utf8.hpp"

using edad_fast::wordpiece::CountList;
using edad_fast::wordpiece::is_valid_utf8;
using edad_fast::wordpiece::load_counts;
using edad_fast::wordpiece::make_count_list;
using edad_fast::wordpiece::merge_counts;
using edad_fast::wordpiece::save_counts;

namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
int failures = 0;

void check(bool passed, const char* what) {
  if (!passed) {
    ++failures;
    std::fprintf(stderr, "FAILED: %s\n", what);
  }
}

template <typename Error, typename Act>
bool throws(Act act, std::string_view words_of_message) {
  try {
    act();
  } catch (const Error& error) {
    return std::string_view(error.what()).find(words_of_message) != std::string_view::npos;
  }
  return false;
}

void check_utf8() {
  check(is_valid_utf8("a\u00e9\u20ac\U0010FFFF"), "characters of one to four bytes");
  for (const char* bad : {"\x80", "\xc0\xaf", "\xc3", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                          "\xf5", "\xf0\x80\x80\xaf", "\xe2\x82", "a\xff"}) {
    check(!is_valid_utf8(bad), "cut short, overlong, a surrogate or above U+10FFFF");
  }
}

void check_files(const CountList& list) {
  const std::string path = "test_count_list.tmp";
  save_counts(list, path, "{\"lowercase\": true}");
  const auto [loaded, header] = load_counts(path);
  check(loaded == list && header == "{\"lowercase\": true}", "a saved list comes back");
  std::FILE* file = std::fopen(path.c_str(), "r+b");
  std::fseek(file, -9, SEEK_END);  // the last letter of the last word
  std::fputc('!', file);
  std::fclose(file);
  check(throws<std::runtime_error>([&] { load_counts(path); }, path + ": the checksum is wrong"),
        "damage shows");
  std::remove(path.c_str());
  check(throws<std::runtime_error>([&] { load_counts(path); }, "cannot be read"), "no file");
  check(throws<std::runtime_error>([&] { save_counts(list, "no/such/folder", ""); }, "cannot be written"),
        "no folder");
}

}  // namespace

int main() {
  check_utf8();

  const CountList list = make_count_list({{"b", 3}, {"abc", 1}, {"\u00e9", 4}, {"b", 2}, {"ab", 7}}, 5);
  check(list.text == "ababcb\u00e9" && list.ends == std::vector<std::uint64_t>({2, 5, 6, 8}), "sorted words");
  check(list.counts == std::vector<std::int64_t>({7, 1, 5, 4}), "counts of equal words add up");
  check(list.total() == 22, "the total with long words");
  check(list.find("ab") == 0 && list.find("\u00e9") == 3, "words are found");
  check(list.find("a") == -1 && list.find("z") == -1 && list.find("\u00ea") == -1, "others are not");
  check(CountList().find("a") == -1 && CountList().total() == 0, "an empty list");

  const CountList other = make_count_list({{"a", 1}, {"b", 10}, {"zz", 1}}, 1);
  const std::vector<const CountList*> both{&list, &other};
  const CountList merged = merge_counts(both);
  check(merged == make_count_list({{"a", 1}, {"ab", 7}, {"abc", 1}, {"b", 15}, {"zz", 1}, {"\u00e9", 4}}, 6),
        "the sum of two lists");
  const std::vector<const CountList*> swapped{&other, &list};
  check(merge_counts(swapped) == merged, "in any order");
  check(merge_counts({}) == CountList(), "no lists");

  using Invalid = std::invalid_argument;
  check(throws<Invalid>([] { make_count_list({{"a", 1}, {"", 1}}); }, "word 1 is empty"), "an empty word");
  check(throws<Invalid>([] { make_count_list({{"a", 0}}); }, "has the count 0"), "no occurrence");
  check(throws<Invalid>([] { make_count_list({{"\xff", 1}}); }, "not valid UTF-8"), "no UTF-8");
  check(throws<Invalid>([] { make_count_list({{"a", 1}}, -1); }, "long_words is -1"), "a negative count");
  check(throws<Invalid>([] { make_count_list({{"a", kMost}, {"b", 1}}); }, "2**63 - 1"), "overflow");
  const CountList huge = make_count_list({{"a", kMost}});
  const std::vector<const CountList*> too_much{&huge, &list};
  check(throws<Invalid>([&] { merge_counts(too_much); }, "2**63 - 1"), "overflow of a sum");

  check_files(list);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
