#include "segmented_words.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace edad_fast::wordpiece {
namespace {

constexpr std::size_t kAhead = 16;  // places by which memory is asked for before it is used

bool begins_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }

}  // namespace

SegmentedWords::SegmentedWords(const CountList& list, const std::vector<std::string>& pieces,
                               std::size_t fixed, const std::vector<bool>& skip, Id unk_id,
                               std::string_view prefix, std::size_t max_chars)
    : list_(list),
      pieces_(pieces.size()),
      fixed_(fixed),
      unk_id_(unk_id),
      trie_(pieces, prefix),
      lengths_(2 * pieces.size()),
      active_(2 * pieces.size()),
      counts_(pieces.size()),
      unit_at_(list.text.size(), kNone),
      unsplit_(list.size()),
      retry_heads_(pieces.size(), kEnd),
      changed_(pieces.size()),
      skip_(skip) {
  if (list.text.size() > std::numeric_limits<std::uint32_t>::max()) {
    throw std::runtime_error("more than 4 GiB of different words; drop the rare ones");
  }
  for (std::size_t id = 0; id < pieces_; ++id) {
    const std::size_t bytes = pieces[id].size();
    const bool can_continue = bytes > prefix.size() && pieces[id].starts_with(prefix);
    lengths_[id] = static_cast<std::uint32_t>(can_continue ? bytes - prefix.size() : bytes);
    lengths_[id + pieces_] = static_cast<std::uint32_t>(bytes);
    set_active(static_cast<Id>(id), id < fixed);
  }
  first_word_.reserve(list.text.size() / kBlock + 1);
  for (std::uint32_t word = 0; word < list.size(); ++word) {
    while (first_word_.size() * kBlock < list.ends[word]) {
      first_word_.push_back(word);
    }
  }
  split_first(max_chars);
  changes_.clear();
  changed_.assign(pieces_, false);
}

void SegmentedWords::set_active(Id id, bool active) {
  active_[index(id)] = active_[index(id) + pieces_] = active ? 1 : 0;
}

SegmentedWords::Id SegmentedWords::piece_of(Unit unit) const {
  return index(unit) < pieces_ ? unit : static_cast<Id>(index(unit) - pieces_);
}

void SegmentedWords::add(Unit unit, std::int64_t count) {
  const Id id = piece_of(unit);
  if (!changed_[index(id)]) {
    changed_[index(id)] = true;
    changes_.emplace_back(id, counts_[index(id)]);
  }
  counts_[index(id)] += count;
  tokens_ += count;
}

std::uint32_t SegmentedWords::word_at(std::size_t position) const {
  std::uint32_t word = first_word_[position / kBlock];
  while (list_.ends[word] <= position) {
    ++word;
  }
  return word;
}

// Appends every candidate that is longer than all fixed pieces that fit at its place (elsewhere a fixed piece
// is always preferred), and notes the longest fixed pieces. Returns whether these split the word.
bool SegmentedWords::find_matches(std::size_t word, std::vector<Match>& matches) {
  const std::size_t begin = list_.begin_of(word);
  const std::string_view text = list_.word(word);
  fixed_at_.assign(text.size(), kNone);
  for (std::size_t position = 0; position < text.size(); ++position) {
    if (!begins_character(text[position])) {
      continue;
    }
    const std::size_t first = matches.size();
    trie_.for_each_prefix(text.substr(position), position > 0, [&](Unit unit, std::size_t) {
      const std::size_t id = index(piece_of(unit));
      if (id < fixed_) {
        fixed_at_[position] = unit;
        matches.resize(first);
      } else if (!skip_[id - fixed_]) {
        matches.push_back({unit, static_cast<std::uint32_t>(begin + position)});
      }
    });
  }
  std::size_t position = 0;
  while (position < text.size() && fixed_at_[position] != kNone) {
    position += length(fixed_at_[position]);
  }
  return position == text.size();
}

void SegmentedWords::split_first(std::size_t max_chars) {
  std::vector<Match> matches;
  for (std::uint32_t word = 0; word < list_.size(); ++word) {
    const std::string_view text = list_.word(word);
    const std::int64_t count = list_.counts[word];
    if (text.size() > max_chars &&
        static_cast<std::size_t>(std::ranges::count_if(text, begins_character)) > max_chars) {
      add(unk_id_, count);
      continue;
    }
    const std::size_t first = matches.size();
    if (!find_matches(word, matches)) {
      unsplit_[word] = true;
      add(unk_id_, count);
      retry_later(word, matches, first);
      continue;
    }
    const std::size_t begin = list_.begin_of(word);
    for (std::size_t position = 0; position < text.size(); position += length(fixed_at_[position])) {
      unit_at_[begin + position] = fixed_at_[position];
      add(fixed_at_[position], count);
    }
  }
  if (list_.long_words > 0) {
    add(unk_id_, list_.long_words);
  }
  // Sort by unit; places of a unit stay in order.
  place_ends_.assign(2 * pieces_ + 1, 0);
  for (const Match& match : matches) {
    ++place_ends_[index(match.unit) + 1];
  }
  for (std::size_t unit = 1; unit < place_ends_.size(); ++unit) {
    place_ends_[unit] += place_ends_[unit - 1];
  }
  places_.resize(matches.size());
  for (const Match& match : matches) {
    places_[place_ends_[index(match.unit)]++] = match.position;
  }
}

// Any candidate to come that has a place in the word may make it splittable.
void SegmentedWords::retry_later(std::uint32_t word, const std::vector<Match>& matches, std::size_t first) {
  for (std::size_t i = first; i < matches.size(); ++i) {
    const Id id = piece_of(matches[i].unit);
    std::uint32_t& head = retry_heads_[index(id)];
    if (id > newest_ && (head == kEnd || retries_[head].word != word)) {
      retries_.push_back({word, head});
      head = static_cast<std::uint32_t>(retries_.size() - 1);
    }
  }
}

SegmentedWords::Unit SegmentedWords::longest(std::size_t position, std::size_t begin, std::size_t end) const {
  Unit best = kNone;
  const std::string_view rest(list_.text.data() + position, end - position);
  trie_.for_each_prefix(rest, position > begin, [&](Unit unit, std::size_t) {
    if (active_[index(unit)] != 0) {
      best = unit;
    }
  });
  return best;
}

void SegmentedWords::retry(std::uint32_t word) {
  if (!unsplit_[word]) {
    return;
  }
  const std::size_t begin = list_.begin_of(word);
  const auto end = static_cast<std::size_t>(list_.ends[word]);
  new_units_.clear();
  for (std::size_t position = begin; position < end;) {
    const Unit unit = longest(position, begin, end);
    if (unit == kNone) {
      return;
    }
    new_units_.push_back({unit, static_cast<std::uint32_t>(position)});
    position += length(unit);
  }
  unsplit_[word] = false;
  add(unk_id_, -list_.counts[word]);
  for (const Match& match : new_units_) {
    unit_at_[match.position] = match.unit;
    add(match.unit, list_.counts[word]);
  }
}

// The greedy choice of a longer piece can lead nowhere: the word has no segmentation any more.
void SegmentedWords::give_up(std::uint32_t word) {
  const std::size_t begin = list_.begin_of(word);
  for (std::size_t position = begin; position < list_.ends[word]; ++position) {
    if (unit_at_[position] != kNone) {
      add(unit_at_[position], -list_.counts[word]);
      unit_at_[position] = kNone;
    }
  }
  add(unk_id_, list_.counts[word]);
  unsplit_[word] = true;
  std::vector<Match> matches;
  find_matches(word, matches);
  retry_later(word, matches, 0);
}

// The unit replaces a shorter one; what follows is split anew until a boundary of old is met.
void SegmentedWords::split_again(std::uint32_t place, Unit unit) {
  const std::uint32_t word = word_at(place);
  const std::size_t begin = list_.begin_of(word);
  const auto end = static_cast<std::size_t>(list_.ends[word]);
  std::size_t old_end = place;
  std::size_t new_end = place;
  new_units_.clear();
  Unit next = unit;
  do {
    if (next == kNone) {
      give_up(word);
      return;
    }
    new_units_.push_back({next, static_cast<std::uint32_t>(new_end)});
    new_end += length(next);
    while (old_end < new_end) {
      old_end += length(unit_at_[old_end]);
    }
    if (old_end != new_end) {
      next = longest(new_end, begin, end);
    }
  } while (old_end != new_end);

  const std::int64_t count = list_.counts[word];
  for (std::size_t position = place; position < old_end;) {
    const Unit old = unit_at_[position];
    unit_at_[position] = kNone;
    add(old, -count);
    position += length(old);
  }
  for (const Match& match : new_units_) {
    unit_at_[match.position] = match.unit;
    add(match.unit, count);
  }
}

std::span<const std::uint32_t> SegmentedWords::places_of(Unit unit) const {
  const std::size_t begin = unit == 0 ? 0 : place_ends_[index(unit) - 1];
  return {places_.data() + begin, static_cast<std::size_t>(place_ends_[index(unit)]) - begin};
}

void SegmentedWords::split_places(Unit unit) {
  const std::span<const std::uint32_t> places = places_of(unit);
  for (std::size_t i = 0; i < places.size(); ++i) {
#if defined(__GNUC__)
    if (i + kAhead < places.size()) {
      __builtin_prefetch(&unit_at_[places[i + kAhead]]);
    }
#endif
    const Unit present = unit_at_[places[i]];
    if (present != kNone && length(present) < length(unit)) {
      split_again(places[i], unit);
    }
  }
}

void SegmentedWords::activate(Id candidate) {
  for (const auto& [id, count] : changes_) {
    changed_[index(id)] = false;
  }
  changes_.clear();
  newest_ = candidate;
  set_active(candidate, true);
  for (std::uint32_t i = retry_heads_[index(candidate)]; i != kEnd; i = retries_[i].next) {
    retry(retries_[i].word);
  }
  split_places(candidate);
  split_places(unit_at_begin(candidate));
}

void SegmentedWords::deactivate(std::span<const Id> candidates) {
  for (const Id candidate : candidates) {
    set_active(candidate, false);
  }
  for (const Id candidate : candidates) {
    for (const Unit unit : {candidate, unit_at_begin(candidate)}) {
      for (const std::uint32_t place : places_of(unit)) {
        if (unit_at_[place] == kNone) {
          retry(word_at(place));
        }
      }
    }
  }
}

}  // namespace edad_fast::wordpiece
