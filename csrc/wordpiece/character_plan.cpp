#include "character_plan.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace edad_fast::wordpiece {
namespace {

constexpr char32_t kCapitalSigma = 0x3A3;

}  // namespace

class CharacterPlan::Maker {
 public:
  Maker(CharacterPlan& plan, const NormalizerOptions& options)
      : plan_(plan), options_(options), data_(CharacterData::of(options.compat)) {}

  void make();

 private:
  void add_block(char32_t first, const CharacterData::Run* run);
  std::uint32_t make_entry(char32_t code);
  std::uint32_t make_action(char32_t code, std::uint32_t properties);
  std::uint32_t list_entry(Action action);
  void find_parts(char32_t code);
  void add_part(char32_t code, bool dropped, std::uint8_t combining_class);

  CharacterPlan& plan_;
  const NormalizerOptions& options_;
  const CharacterData& data_;
  std::map<std::vector<std::uint32_t>, std::uint16_t> numbers_;  // of blocks
  std::map<std::uint32_t, std::uint16_t> uniform_;               // of blocks that have just these properties
  std::u32string letters_, images_;                              // reused
  std::vector<Part> parts_;                                      // of the character at hand
};

void CharacterPlan::Maker::make() {
  plan_.block_of_.reserve(kCodePoints >> kBlockBits);
  const CharacterData::Run* run = data_.runs().data();
  const CharacterData::Run* const last_run = run + data_.runs().size() - 1;
  for (char32_t first = 0; first < kCodePoints; first += kBlockMask + 1) {
    while (run < last_run && (run + 1)->begin <= first) {
      ++run;
    }
    const bool whole = run == last_run || (run + 1)->begin > first + kBlockMask;
    const bool mapped = data_.any_mapped(first, first + kBlockMask) || CharacterData::is_hangul(first) ||
                        CharacterData::is_hangul(first + kBlockMask);
    // Marks have entries of their own: nothing of theirs is uniform.
    const bool uniform = whole && !mapped && (run->properties >> kCombiningClassShift) == 0;
    add_block(first, uniform ? run : nullptr);
  }
  for (unsigned char byte = 0; byte < 0x80; ++byte) {
    const Entry entry = plan_.entry(byte);
    if (entry.action() == Action::copy) {
      plan_.ascii_letters_[byte] = byte;
    } else if (entry.action() == Action::map) {
      plan_.ascii_letters_[byte] = static_cast<unsigned char>(entry.letter_bytes().bytes);
    }
  }
}

// `run`: the properties of the whole block, which has no mappings; or null.
void CharacterPlan::Maker::add_block(char32_t first, const CharacterData::Run* run) {
  if (run != nullptr) {
    if (const auto known = uniform_.find(run->properties); known != uniform_.end()) {
      plan_.block_of_.push_back(known->second);
      return;
    }
  }
  std::vector<std::uint32_t> block;
  for (char32_t code = first; code <= first + kBlockMask; ++code) {
    block.push_back(make_entry(code));
  }
  const auto [place, is_new] =
      numbers_.try_emplace(block, static_cast<std::uint16_t>(plan_.blocks_.size() >> kBlockBits));
  if (is_new) {
    plan_.blocks_.insert(plan_.blocks_.end(), block.begin(), block.end());
  }
  if (run != nullptr) {
    uniform_[run->properties] = place->second;
  }
  plan_.block_of_.push_back(place->second);
}

std::uint32_t CharacterPlan::Maker::make_entry(char32_t code) {
  const std::uint32_t properties = data_.properties(code);
  std::uint32_t entry = make_action(code, properties);
  if (options_.compat == Compat::slow && options_.lowercase) {
    entry |= (properties & kIgnorableProperty) != 0 ? Entry::kIgnorable : 0;
    entry |= (properties & kCasedProperty) != 0 ? Entry::kCased : 0;
  }
  return entry;
}

std::uint32_t CharacterPlan::Maker::make_action(char32_t code, std::uint32_t properties) {
  const auto plain = [](Action action) { return static_cast<std::uint32_t>(action); };
  if (options_.clean_text && (properties & kCleanedProperty) != 0) {
    return plain(Action::space);
  }
  if (options_.clean_text && (properties & kRemovedProperty) != 0) {
    return plain(Action::removed);
  }
  if (options_.compat == Compat::slow && options_.lowercase && code == kCapitalSigma) {
    return plain(Action::sigma);
  }
  if (options_.strip_accents && CharacterData::is_hangul(code)) {
    return plain(Action::hangul);  // the letters have no property, which make_unicode_tables.py makes sure of
  }
  find_parts(code);
  if (options_.strip_accents) {
    const auto is_mark = [](const Part& part) { return part.combining_class != 0; };
    const bool keeps = std::ranges::any_of(
        parts_, [&](const Part& part) { return is_mark(part) && part.role != Role::none; });
    const bool starts = !is_mark(parts_.front());
    if (keeps || !starts) {
      return list_entry(Action::marks) | (keeps ? Entry::kKeeps : 0) | (starts ? Entry::kStarts : 0);
    }
    std::erase_if(parts_, [](const Part& part) { return part.role == Role::none; });
  }
  if (parts_.empty()) {
    return plain(Action::dropped);
  }
  if (options_.handle_chinese_chars && (properties & kChineseProperty) != 0) {
    if (parts_.size() == 1 && parts_[0].role == Role::letter) {
      parts_[0].role = Role::alone;
    } else {
      parts_.insert(parts_.begin(), Part{{}, Role::space, 0});
      parts_.push_back(Part{{}, Role::space, 0});
    }
  }
  if (parts_.size() > 1) {
    return list_entry(Action::list);
  }
  const Part& part = parts_[0];
  const bool same = part.utf8.bytes == to_utf8(code).bytes;
  if (part.role == Role::space) {
    return plain(Action::space);
  }
  if (same) {
    return plain(part.role == Role::alone ? Action::alone : Action::copy);
  }
  if (part.role == Role::letter && part.utf8.length <= 3) {
    return plain(Action::map) | part.utf8.length << 4 | part.utf8.bytes << 8;
  }
  return list_entry(Action::list);
}

std::uint32_t CharacterPlan::Maker::list_entry(Action action) {
  const auto place = static_cast<std::uint32_t>(plan_.parts_.size());
  plan_.parts_.insert(plan_.parts_.end(), parts_.begin(), parts_.end());
  return static_cast<std::uint32_t>(action) | static_cast<std::uint32_t>(parts_.size()) << 8 | place << 12;
}

// Google's code lower-cases before it strips accents, `tokenizers` after.
void CharacterPlan::Maker::find_parts(char32_t code) {
  parts_.clear();
  const bool lower_first = options_.compat == Compat::slow;
  letters_.clear();
  if (options_.lowercase && lower_first) {
    data_.append_lower(code, letters_);
  } else {
    letters_.push_back(code);
  }
  for (const char32_t letter : letters_) {
    images_.clear();
    if (options_.strip_accents) {
      data_.append_decomposition(letter, images_);
    } else {
      images_.push_back(letter);
    }
    for (const char32_t image : images_) {
      if (!options_.strip_accents) {
        add_part(image, false, 0);
        continue;
      }
      const std::uint32_t properties = data_.properties(image);
      const auto combining_class = static_cast<std::uint8_t>(properties >> kCombiningClassShift);
      add_part(image, (properties & kDroppedProperty) != 0, combining_class);
    }
  }
}

void CharacterPlan::Maker::add_part(char32_t code, bool dropped, std::uint8_t combining_class) {
  if (dropped) {
    parts_.push_back({{}, Role::none, combining_class});
    return;
  }
  std::u32string lower;
  if (options_.lowercase && options_.compat == Compat::hf) {
    data_.append_lower(code, lower);
  } else {
    lower.push_back(code);
  }
  for (const char32_t letter : lower) {
    const std::uint32_t properties = data_.properties(letter);
    const Role role = (properties & kSpaceProperty) != 0         ? Role::space
                      : (properties & kPunctuationProperty) != 0 ? Role::alone
                                                                 : Role::letter;
    parts_.push_back({to_utf8(letter), role, combining_class});
  }
}

CharacterPlan::CharacterPlan(const NormalizerOptions& options) { Maker(*this, options).make(); }

const CharacterPlan& CharacterPlan::of(const NormalizerOptions& options) {
  static std::array<std::once_flag, 32> made;
  static std::array<std::unique_ptr<const CharacterPlan>, 32> plans;
  const std::size_t which = (options.compat == Compat::slow ? 16U : 0U) | (options.clean_text ? 8U : 0U) |
                            (options.handle_chinese_chars ? 4U : 0U) | (options.strip_accents ? 2U : 0U) |
                            (options.lowercase ? 1U : 0U);
  std::call_once(made[which], [&] { plans[which].reset(new CharacterPlan(options)); });
  return *plans[which];
}

}  // namespace edad_fast::wordpiece
