#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "wordpiece/encode.hpp"

using namespace edad_fast::wordpiece;
using Numbers = std::vector<std::int32_t>;

namespace {

int failures = 0;

void check(bool passed, const std::string& what) {
  if (!passed) {
    ++failures;
    std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  }
}

TextView view(std::string_view text) { return {text.data(), text.size(), TextView::Kind::utf8}; }

struct Row {
  Numbers ids, spans, words;
  bool operator==(const Row&) const = default;
};

Row encode(const Encoder& encoder, std::string_view text) {
  const std::vector<TextView> texts{view(text)};
  Encoded plain = encoder.encode(texts, 1, false);
  Encoded full = encoder.encode(texts, 1, true);
  const Numbers ids(plain.ids.data(), plain.ids.data() + plain.ids.size());
  Row row{{full.ids.data(), full.ids.data() + full.ids.size()},
          {full.spans.data(), full.spans.data() + full.spans.size()},
          {full.words.data(), full.words.data() + full.words.size()}};
  check(ids == row.ids, "the same ids with and without spans: " + std::string(text.substr(0, 50)));
  return row;
}

template <typename Work>
bool rejects(Work work, std::string_view words_of_message) {
  try {
    work();
  } catch (const std::invalid_argument& error) {
    return std::string_view(error.what()).find(words_of_message) != std::string_view::npos;
  }
  return false;
}

}  // namespace

int main() {
  const std::vector<std::string> pieces{"[UNK]",
                                        "[MASK]",
                                        "a",
                                        "##a",
                                        "##b",
                                        "abc",
                                        "##bcd",
                                        ".",
                                        "e",
                                        "\u03b2",
                                        "##\u03b2",
                                        "\u4e2d",
                                        "longerthansixteenbytes"};
  EncoderOptions options;
  options.literals = {{"[MASK]", 1}, {"[MASK]a", 2}};
  const Encoder encoder(pieces, options);

  check(encode(encoder, "aab") == Row{{2, 3, 4}, {0, 1, 1, 2, 2, 3}, {0, 0, 0}}, "pieces of a word");
  check(encode(encoder, "ABC.abcd a") == Row{{5, 7, 0, 2}, {0, 3, 3, 4, 4, 8, 9, 10}, {0, 1, 2, 3}},
        "lower case, punctuation, an unknown word");
  // Longest match first: abc takes what ##bcd would need.
  check(encode(encoder, "abcd").ids == Numbers{0}, "no way back");
  check(encode(encoder, "a\u03b2 \u00e9\u4e2d.") ==
            Row{{2, 10, 8, 11, 7}, {0, 1, 1, 2, 3, 4, 4, 5, 5, 6}, {0, 0, 1, 2, 3}},
        "characters, not bytes");
  check(encode(encoder, "a[MASK]a \u03b2[MASK].") ==
            Row{{2, 2, 9, 1, 7}, {0, 1, 1, 8, 9, 10, 10, 16, 16, 17}, {0, 1, 2, 3, 4}},
        "literals, the longest one first");
  check(encode(encoder, "") == Row{} && encode(encoder, " \t\n\r ") == Row{}, "nothing");
  check(encode(encoder, "longerthansixteenbytes longerthansixteenbytes").ids == Numbers{12, 12}, "long word");
  const std::string many(100, 'a');
  check(encode(encoder, many).ids.size() == 100, "100 characters are split");
  check(encode(encoder, many + "a") == Row{{0}, {0, 101}, {0}}, "101 are not");
  check(encode(encoder, "\u03b2" + many) == Row{{0}, {0, 101}, {0}}, "101, not all ASCII");
  check(encode(encoder,
               "a\xff\xc3"
               "a") == Row{{2, 3}, {0, 1, 3, 4}, {0, 0}},
        "invalid bytes vanish");

  // Every place of a word in the window, and words across its end.
  for (const std::size_t filler : {8180U, 8190U, 8191U, 8192U, 8193U, 20000U}) {
    const std::string text = std::string(filler, ' ') + "abc.aab";
    const auto at = static_cast<std::int32_t>(filler);
    check(encode(encoder, text) ==
              Row{{5, 7, 2, 3, 4},
                  {at, at + 3, at + 3, at + 4, at + 4, at + 5, at + 5, at + 6, at + 6, at + 7},
                  {0, 1, 2, 2, 2}},
          "after " + std::to_string(filler) + " spaces");
    check(encode(encoder, std::string(filler, 'a')) == Row{{0}, {0, at}, {0}}, "one long word");
  }
  std::string dots;
  for (int i = 0; i < 5000; ++i) {
    dots += "a.";
  }
  check(encode(encoder, dots).ids.size() == 10000, "no white space for longer than a window");

  // A word met twice, and more words than the cache holds.
  std::string text;
  Numbers expected;
  for (int i = 0; i < 200000; ++i) {
    for (int bits = i; bits != 0; bits /= 2) {
      text += bits % 2 == 0 ? 'a' : 'b';
    }
    // "b" starts no piece.
    text += " abc ";
    expected.push_back(5);
  }
  Numbers found;
  for (const std::int32_t id : encode(encoder, text).ids) {
    if (id == 5) {
      found.push_back(id);
    }
  }
  check(found.size() >= expected.size(), "no word is lost");

  EncoderOptions narrow;
  narrow.max_chars = 2;
  const Encoder short_words(pieces, narrow);
  check(encode(short_words, "aa aab abc \u03b2\u03b2 aa\u03b2").ids == Numbers{2, 3, 0, 0, 9, 10, 0},
        "a limit of two");
  const Encoder long_piece({"[UNK]", "a", "##a", std::string(20000, 'a')}, {});
  check(encode(long_piece, "aa").ids == Numbers{1, 2}, "a piece that no word can hold");

  const std::u16string half = {u'a', char16_t{0xD800}};
  const std::vector<TextView> broken{view("a"), {half.data(), 2, TextView::Kind::ucs2}};
  check(rejects([&] { encoder.encode(broken, 1, false); },
                "texts[1] holds half of a surrogate pair at character 1"),
        "half a pair");
  EncoderOptions slow = options;
  slow.normalizer.compat = Compat::slow;
  check(Encoder(pieces, slow).encode(broken, 1, false).ids.size() == 2, "half a pair in the slow mode");
  const std::vector<TextView> latin{{"\xe9\xe9", 2, TextView::Kind::latin1}};
  check(encoder.encode(latin, 1, false).ids.size() == 1, "Latin-1");

  check(rejects([&] { Encoder({"[UNK]", "a", "a"}, {}); }, "'a' appears twice: ids 1 and 2"), "twice");
  check(rejects([&] { Encoder({"[UNK]", ""}, {}); }, "piece 1 is empty"), "empty piece");
  EncoderOptions outside;
  outside.unk_id = 3;
  check(rejects([&] { Encoder({"[UNK]"}, outside); }, "unk_id 3 is outside the 1 pieces"), "unk_id");
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
