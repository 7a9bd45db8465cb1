#include "mark_run.hpp"

namespace edad_fast::wordpiece {

MarkRun::MarkRun(const CharacterPlan& plan, const unsigned char* at, const unsigned char* text_end,
                 std::size_t index)
    : plan_(plan), begin_(at), begin_index_(index), end_(at), end_index_(index) {
  // What is removed behind the last mark is left to the caller.
  while (at < text_end) {
    const Utf8Unit unit = read_utf8(at, text_end);
    const CharacterPlan::Entry entry = plan.entry(unit.code);
    const bool is_mark = entry.action() == Action::marks && (at == begin_ || !entry.starts());
    if (!is_mark && entry.action() != Action::removed) {
      return;
    }
    at += unit.length;
    ++index;
    if (is_mark) {
      end_ = at;
      end_index_ = index;
      keeps_marks_ |= entry.keeps_marks();
    }
  }
}

MarkOrder::MarkOrder(const MarkRun& run)
    : run_(run), reader_{run.begin_, run.begin_index_, run.begin_index_}, origin_(reader_) {
  Cursor cursor = reader_;
  for (auto parts = cursor.advance(run); !parts.empty(); parts = cursor.advance(run)) {
    ++characters_[parts[0].combining_class];
    for (const Part& part : parts) {
      kept_[part.combining_class] |= part.role != Role::none;
    }
  }
}

std::span<const Part> MarkOrder::Cursor::advance(const MarkRun& run) {
  while (at < run.end_) {
    const Utf8Unit unit = read_utf8(at, run.end_);
    const CharacterPlan::Entry entry = run.plan_.entry(unit.code);
    at += unit.length;
    index = next_index++;
    if (entry.action() == Action::marks) {
      return run.plan_.parts(entry);
    }
  }
  return {};
}

bool MarkOrder::next_class() {
  while (++class_ < kClasses) {
    if (kept_[class_]) {
      reader_ = {run_.begin_, run_.begin_index_, run_.begin_index_};
      return true;
    }
    for (std::size_t i = 0; i < characters_[class_]; ++i) {
      origin_.advance(run_);
    }
  }
  return false;
}

const Part* MarkOrder::next(std::size_t& index) {
  while (class_ < kClasses) {
    while (part_ < parts_.size()) {
      const Part& part = parts_[part_++];
      if (part.combining_class != class_) {
        continue;
      }
      if (part_ == 1) {
        origin_.advance(run_);
      }
      if (part.role != Role::none) {
        index = origin_.index;
        return &part;
      }
    }
    parts_ = reader_.advance(run_);
    part_ = 0;
    if (parts_.empty() && !next_class()) {
      return nullptr;
    }
  }
  return nullptr;
}

}  // namespace edad_fast::wordpiece
