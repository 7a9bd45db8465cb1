// The pair ab with the greatest f(ab) / (f(a) f(b)), ties by the smaller key; scores are compared exactly.
#pragma once

#include <cstdint>
#include <vector>

#include "pair_table.hpp"

namespace edad_fast::wordpiece {

// Whenever a symbol's frequency changes, so do the scores of all its pairs, and most pairs have a frequent
// symbol. So each pair belongs to one of its symbols, the more frequent one when the pair is made. A symbol
// orders its pairs by f(ab) / f(other); the order does not depend on the symbol's own frequency, and when
// that changes only the symbol's place among the symbols does, which are ordered by the score of their best
// pair. The pairs that belong to the other symbol are few, and are put right one by one.
class LikelihoodQueue {
 public:
  static constexpr bool kNeedsEveryChange = true;

  LikelihoodQueue(PairTable& pairs, const std::vector<std::int64_t>& frequencies, std::int64_t min_frequency)
      : pairs_(pairs), frequencies_(frequencies), min_frequency_(min_frequency) {}

  // The count of a pair changed. All such calls of a merge come before frequency_changed().
  void changed(std::uint32_t index);

  // The frequency of a symbol changed.
  void frequency_changed(Symbol symbol);

  // Returns the best pair, or kNone. It stays until its count falls.
  std::uint32_t pop() const;

 private:
  static constexpr std::uint32_t kNone = PairTable::kNone;

  // What is compared is copied here, so that a heap is in order at any moment although several true values
  // change at once.
  struct Waiting {
    std::int64_t count = 0;
    std::int64_t other_frequency = 0;
    Symbol owner = kNone;  // kNone: not seen yet
    std::uint32_t place = kNone;
  };
  struct Owner {
    std::int64_t frequency = 0;
    std::uint32_t place = kNone;
    std::uint32_t best = kNone;  // the first of `heap` when the owner was last put in its place
    std::int64_t best_count = 0, best_other = 0;
    std::vector<std::uint32_t> heap;       // pairs that belong to it
    std::vector<std::uint32_t> elsewhere;  // pairs that belong to the other symbol, or have it twice
  };

  bool pair_before(std::uint32_t first, std::uint32_t second) const;
  bool owner_before(Symbol first, Symbol second) const;
  Symbol other_symbol(std::uint32_t index) const;
  void update_pair(std::uint32_t index, bool wanted);
  void update_owner(Symbol symbol);

  PairTable& pairs_;
  const std::vector<std::int64_t>& frequencies_;
  std::int64_t min_frequency_;
  std::vector<Waiting> waiting_;  // one a pair
  std::vector<Owner> owners_;     // one a symbol
  std::vector<Symbol> order_;     // heap of the symbols that own pairs
};

}  // namespace edad_fast::wordpiece
