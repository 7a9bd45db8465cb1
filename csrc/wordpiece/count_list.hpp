// How often each word occurs: all that learning and merging vocabularies need to know of a corpus.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edad_fast::wordpiece {

// Canonical form: distinct, non-empty words of valid UTF-8 by ascending bytes, counts above 0, and a total
// that 64 bits hold. Equal corpora therefore have equal lists, whatever the order they were counted in.
struct CountList {
  std::string text;                  // all words, one behind the other
  std::vector<std::uint64_t> ends;   // word i is text[ends[i - 1], ends[i])
  std::vector<std::int64_t> counts;  // one a word
  std::int64_t long_words = 0;       // words of too many characters for BERT to split: counted, not kept

  bool operator==(const CountList&) const = default;

  std::size_t size() const { return ends.size(); }
  std::size_t begin_of(std::size_t index) const {
    return index == 0 ? 0 : static_cast<std::size_t>(ends[index - 1]);
  }
  std::string_view word(std::size_t index) const {
    const std::size_t begin = begin_of(index);
    return {text.data() + begin, static_cast<std::size_t>(ends[index]) - begin};
  }

  // Words counted, repetitions and long words included.
  std::int64_t total() const;

  // Index of `word`, or -1.
  std::int64_t find(std::string_view word) const;
};

// Sorts; counts of equal words add up.
// Throws std::invalid_argument: an empty word, invalid UTF-8, a count below 1, long_words below 0, or a total
// that exceeds 64 bits.
CountList make_count_list(std::vector<std::pair<std::string, std::int64_t>> items,
                          std::int64_t long_words = 0);

// Sums of several lists; no list gives an empty one. Throws std::invalid_argument if the total exceeds 64
// bits.
CountList merge_counts(std::span<const CountList* const> lists);

// Writes a table of counts. `header` is text of the caller's (JSON: how the words were made). Not atomic.
//
// Format, integers little-endian:
//   bytes 0-7    "EDADWCNT"
//   bytes 8-11   version, 1
//   bytes 12-15  h, bytes of the header
//   bytes 16-23  n, number of words
//   bytes 24-31  t, bytes of the words
//   bytes 32-39  long_words
//   h bytes header, n x 4 bytes lengths of the words, n x 8 bytes counts, t bytes words,
//   8 bytes checksum of all that precedes (see checksum64).
// Throws std::runtime_error naming the file: it cannot be written; std::invalid_argument: header or word of
// 4 GiB or more.
void save_counts(const CountList& list, const std::string& path, std::string_view header);

// Reads what save_counts() wrote: the list and the header.
// Throws std::runtime_error naming the file and what is wrong: unreadable, not such a table, another version,
// size, checksum, order of the words, invalid UTF-8, counts below 1, total above 64 bits.
std::pair<CountList, std::string> load_counts(const std::string& path);

// 64-bit checksum: lanes of 8 bytes (the last one filled up with zeros), each xor-ed in, multiplied and
// rotated; then the length and the final mix of MurmurHash3. A change within one lane always shows.
std::uint64_t checksum64(std::string_view bytes);

}  // namespace edad_fast::wordpiece
