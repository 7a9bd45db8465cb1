// Combining marks in canonical order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "character_plan.hpp"

namespace edad_fast::wordpiece {

// A run of characters of Action::marks, of which only the first may be more than marks, and what is removed
// between them. Indices count code points.
class MarkRun {
 public:
  MarkRun(const CharacterPlan& plan, const unsigned char* at, const unsigned char* text_end,
          std::size_t index);

  const unsigned char* end() const { return end_; }
  std::size_t end_index() const { return end_index_; }
  bool keeps_marks() const { return keeps_marks_; }

 private:
  friend class MarkOrder;

  const CharacterPlan& plan_;
  const unsigned char* begin_;
  std::size_t begin_index_;
  const unsigned char* end_;
  std::size_t end_index_;
  bool keeps_marks_ = false;
};

// The kept parts of a run, sorted: by combining class, then by place. Needs no memory that grows with the
// run: goes through it once per class. As in `tokenizers`, the k-th character in the new order counts as
// stemming from the k-th one in the old order.
class MarkOrder {
 public:
  explicit MarkOrder(const MarkRun& run);

  // Returns null at the end. The part stems from the code point *index.
  const Part* next(std::size_t& index);

 private:
  static constexpr std::size_t kClasses = 256;

  // Goes through a run's characters of Action::marks.
  struct Cursor {
    const unsigned char* at;
    std::size_t next_index, index;

    std::span<const Part> advance(const MarkRun& run);  // empty at the end
  };

  bool next_class();

  const MarkRun& run_;
  Cursor reader_, origin_;
  std::span<const Part> parts_;  // of the character at hand, and the next one of them
  std::size_t part_ = 0;
  std::size_t class_ = 0;
  std::size_t characters_[kClasses] = {};  // whose first part has this class
  bool kept_[kClasses] = {};               // a part with this class is kept
};

}  // namespace edad_fast::wordpiece
