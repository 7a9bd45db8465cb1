// All words of a list, split by a vocabulary that grows piece by piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "count_list.hpp"
#include "piece_trie.hpp"

namespace edad_fast::wordpiece {

// Keeps the greedy longest-match segmentation of every word under the active pieces, and the count of every
// piece. A piece's id is its index: the fixed pieces, active from the start, then the candidates in order.
class SegmentedWords {
 public:
  using Id = std::int32_t;

  // `pieces` and `list` must outlive this; the first `fixed` pieces are active. `skip` marks candidates that
  // will never be activated. Throws std::runtime_error: more than 4 GiB of words.
  SegmentedWords(const CountList& list, const std::vector<std::string>& pieces, std::size_t fixed,
                 const std::vector<bool>& skip, Id unk_id, std::string_view prefix, std::size_t max_chars);

  // Splits words anew where the candidate makes a difference. Candidates come by rising id.
  void activate(Id candidate);

  // Only for pieces that no word uses. This changes no word's pieces, except that a word may get some again
  // that one of them had led into a dead end.
  void deactivate(std::span<const Id> candidates);

  bool is_active(Id id) const { return active_[index(id)] != 0; }
  const std::vector<std::int64_t>& counts() const { return counts_; }
  std::int64_t tokens() const { return tokens_; }

  // The pieces whose counts changed since activate() was last called, each with the count before.
  const std::vector<std::pair<Id, std::int64_t>>& changes() const { return changes_; }

 private:
  // A unit is a piece at a place: as in PieceTrie, index + number of pieces for "##x" that begins a word.
  using Unit = std::int32_t;
  static constexpr Unit kNone = -1;
  static constexpr std::uint32_t kEnd = 0xFFFFFFFF;
  static constexpr std::size_t kBlock = 16;  // bytes of text for which the first word is noted

  struct Match {
    Unit unit;
    std::uint32_t position;
  };
  struct Retry {
    std::uint32_t word, next;
  };

  static std::size_t index(std::int32_t value) { return static_cast<std::size_t>(value); }

  void set_active(Id id, bool active);
  Id piece_of(Unit unit) const;
  Unit unit_at_begin(Id id) const { return static_cast<Unit>(index(id) + pieces_); }
  std::uint32_t length(Unit unit) const { return lengths_[index(unit)]; }
  void split_first(std::size_t max_chars);
  bool find_matches(std::size_t word, std::vector<Match>& matches);
  void retry_later(std::uint32_t word, const std::vector<Match>& matches, std::size_t first);
  void retry(std::uint32_t word);
  std::span<const std::uint32_t> places_of(Unit unit) const;
  void split_places(Unit unit);
  void split_again(std::uint32_t place, Unit unit);
  void give_up(std::uint32_t word);
  void add(Unit unit, std::int64_t count);
  Unit longest(std::size_t position, std::size_t begin, std::size_t end) const;
  std::uint32_t word_at(std::size_t position) const;

  const CountList& list_;
  std::size_t pieces_;
  std::size_t fixed_;
  Id unk_id_;
  Id newest_ = 0;  // the candidate activated last
  PieceTrie trie_;
  std::vector<std::uint32_t> lengths_;  // bytes of each unit
  std::vector<std::uint8_t> active_;    // of each unit
  std::vector<std::int64_t> counts_;    // of each piece
  std::int64_t tokens_ = 0;
  std::vector<Unit> unit_at_;               // for each byte of text the unit that begins there, or kNone
  std::vector<std::uint32_t> first_word_;   // for each block of text
  std::vector<std::uint64_t> place_ends_;   // the places of unit u end here
  std::vector<std::uint32_t> places_;       // where a candidate is longer than all fixed pieces that fit
  std::vector<bool> unsplit_;               // words without a segmentation at the moment
  std::vector<std::uint32_t> retry_heads_;  // for each candidate a list of words that it may make splittable
  std::vector<Retry> retries_;
  std::vector<std::pair<Id, std::int64_t>> changes_;
  std::vector<bool> changed_;
  std::vector<bool> skip_;
  std::vector<Unit> fixed_at_;    // scratch: of one word
  std::vector<Match> new_units_;  // scratch
};

}  // namespace edad_fast::wordpiece
