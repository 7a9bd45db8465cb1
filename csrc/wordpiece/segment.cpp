#include "segment.hpp"

#include <stdexcept>

#include "text.hpp"

namespace edad_fast::wordpiece {

Segmenter::Segmenter(const std::vector<std::string>& pieces, std::int32_t unk_id, std::string_view prefix,
                     std::size_t max_chars)
    : unk_id_(unk_id), max_chars_(max_chars), matcher_(pieces, prefix, max_chars) {
  if (unk_id < 0 || static_cast<std::size_t>(unk_id) >= pieces.size()) {
    throw std::invalid_argument("unk_id " + std::to_string(unk_id) + " is outside the " +
                                std::to_string(pieces.size()) + " pieces");
  }
}

void Segmenter::append(std::string_view word, bool as_continuation, std::vector<std::int32_t>& ids) const {
  const std::size_t before = ids.size();
  std::size_t count = Matcher::kNone;
  // No word has more characters than bytes.
  if (word.size() <= max_chars_ || count_characters(word) <= max_chars_) {
    ids.resize(before + word.size());
    count = matcher_.match(word, as_continuation, ids.data() + before);
  }
  if (count == Matcher::kNone) {
    ids.resize(before);
    ids.push_back(unk_id_);
  } else {
    ids.resize(before + count);
  }
}

Segmentation Segmenter::segment(std::span<const std::string_view> words, bool as_continuation) const {
  Segmentation result;
  result.ids.reserve(words.size() + words.size() / 2);
  result.offsets.reserve(words.size() + 1);
  result.offsets.push_back(0);
  for (const std::string_view word : words) {
    append(word, as_continuation, result.ids);
    result.offsets.push_back(static_cast<std::int64_t>(result.ids.size()));
  }
  return result;
}

}  // namespace edad_fast::wordpiece
