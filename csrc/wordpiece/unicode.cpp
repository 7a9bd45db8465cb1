#include "unicode.hpp"

#include <algorithm>

namespace edad_fast::wordpiece {
namespace {

#include "unicode_tables_hf.inc"
#include "unicode_tables_shared.inc"
#include "unicode_tables_slow.inc"

constexpr char32_t kDottedI = 0x130;  // the only character whose lower case has two

std::uint32_t undo_zigzag(std::uint32_t number) { return (number >> 1) ^ (0U - (number & 1U)); }

}  // namespace

const char* table_version(Compat compat) { return compat == Compat::hf ? kHfVersion : kSlowVersion; }

const CharacterData& CharacterData::of(Compat compat) {
  if (compat == Compat::hf) {
    static const CharacterData hf(Compat::hf);
    return hf;
  }
  static const CharacterData slow(Compat::slow);
  return slow;
}

CharacterData::CharacterData(Compat compat) {
  const bool hf = compat == Compat::hf;
  const std::span<const std::uint32_t> palette =
      hf ? std::span<const std::uint32_t>(kHfPalette) : std::span<const std::uint32_t>(kSlowPalette);
  const std::span<const std::uint32_t> runs =
      hf ? std::span<const std::uint32_t>(kHfRuns) : std::span<const std::uint32_t>(kSlowRuns);
  char32_t begin = 0;
  for (std::size_t i = 0; i < runs.size(); i += 2) {
    runs_.push_back({begin, palette[runs[i + 1]]});
    begin += runs[i];
  }
  add_decompositions(kSharedDecompositions);
  add_lower(kSharedLower);
  if (hf) {
    add_decompositions(kHfDecompositions);
    add_lower(kHfLower);
  } else {
    add_decompositions(kSlowDecompositions);
    add_lower(kSlowLower);
  }
  std::ranges::sort(decompositions_, {}, &Decomposition::code);
  std::ranges::sort(lower_);
}

void CharacterData::add_decompositions(std::span<const std::uint32_t> numbers) {
  char32_t code = 0;
  char32_t last[4] = {};
  for (std::size_t i = 0; i + 1 < numbers.size();) {
    code += numbers[i];
    const std::uint32_t count = numbers[i + 1];
    decompositions_.push_back({code, static_cast<std::uint32_t>(parts_.size()), count});
    i += 2;
    for (std::uint32_t part = 0; part < count; ++part) {
      last[part] += undo_zigzag(numbers[i++]);
      parts_.push_back(last[part]);
    }
  }
}

void CharacterData::add_lower(std::span<const std::uint32_t> numbers) {
  char32_t begin = 0;
  for (std::size_t i = 0; i + 3 < numbers.size(); i += 4) {
    begin += numbers[i];
    for (std::uint32_t k = 0; k < numbers[i + 1]; ++k) {
      const char32_t code = begin + k * numbers[i + 2];
      lower_.emplace_back(code, code + undo_zigzag(numbers[i + 3]));
    }
  }
}

std::uint32_t CharacterData::properties(char32_t code) const {
  return (std::ranges::upper_bound(runs_, code, {}, &Run::begin) - 1)->properties;
}

bool CharacterData::any_mapped(char32_t first, char32_t last) const {
  const auto decomposition = std::ranges::lower_bound(decompositions_, first, {}, &Decomposition::code);
  const auto lower = std::ranges::lower_bound(lower_, first, {}, &std::pair<char32_t, char32_t>::first);
  return (decomposition != decompositions_.end() && decomposition->code <= last) ||
         (lower != lower_.end() && lower->first <= last) || (first <= kDottedI && kDottedI <= last);
}

void CharacterData::append_decomposition(char32_t code, std::u32string& out) const {
  if (is_hangul(code)) {
    const char32_t index = code - 0xAC00;
    out.push_back(0x1100 + index / 588);
    out.push_back(0x1161 + index % 588 / 28);
    if (index % 28 != 0) {
      out.push_back(0x11A7 + index % 28);
    }
    return;
  }
  const auto found = std::ranges::lower_bound(decompositions_, code, {}, &Decomposition::code);
  if (found != decompositions_.end() && found->code == code) {
    out.append(parts_, found->begin, found->count);
  } else {
    out.push_back(code);
  }
}

void CharacterData::append_lower(char32_t code, std::u32string& out) const {
  if (code == kDottedI) {
    out += U"i\u0307";
    return;
  }
  const auto found = std::ranges::lower_bound(lower_, code, {}, &std::pair<char32_t, char32_t>::first);
  out.push_back(found != lower_.end() && found->first == code ? found->second : code);
}

const unsigned char* previous_utf8(const unsigned char* begin, const unsigned char* at) {
  // A lead or ASCII byte always begins a unit, so the unit is either one that a lead byte close by begins and
  // that ends here, or a stray byte.
  for (const unsigned char* lead = at - 1; at - lead <= 4; --lead) {
    if ((*lead & 0xC0) != 0x80) {
      return lead + read_utf8(lead, at).length == at ? lead : at - 1;
    }
    if (lead == begin) {
      break;
    }
  }
  return at - 1;
}

}  // namespace edad_fast::wordpiece
