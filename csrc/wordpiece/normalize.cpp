#include "normalize.hpp"

namespace edad_fast::wordpiece {

// Final: behind a cased character and not before one, whatever is ignorable between; in the cleaned text.
bool Normalizer::is_final_sigma(const unsigned char* begin, const unsigned char* at,
                                const unsigned char* end) const {
  const auto skipped = [](CharacterPlan::Entry entry) {
    return entry.action() == Action::removed || entry.ignorable();
  };
  bool after_cased = false;
  for (const unsigned char* before = at; before > begin;) {
    before = previous_utf8(begin, before);
    const CharacterPlan::Entry entry = plan_->entry(read_utf8(before, end).code);
    if (!skipped(entry)) {
      after_cased = entry.cased();
      break;
    }
  }
  if (!after_cased) {
    return false;
  }
  for (const unsigned char* behind = at + kSigma.length; behind < end;) {
    const Utf8Unit unit = read_utf8(behind, end);
    const CharacterPlan::Entry entry = plan_->entry(unit.code);
    if (!skipped(entry)) {
      return !entry.cased();
    }
    behind += unit.length;
  }
  return true;
}

}  // namespace edad_fast::wordpiece
