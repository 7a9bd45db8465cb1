// Text as its owner holds it, and work on many texts shared by threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace edad_fast::wordpiece {

// A text in one of the forms in which Python keeps a str, or UTF-8 (any bytes).
struct TextView {
  enum class Kind : std::uint8_t { utf8, latin1, ucs2, ucs4 };

  const void* data = nullptr;
  std::size_t size = 0;  // in bytes, 16-bit or 32-bit units, as `kind` says
  Kind kind = Kind::utf8;

  std::size_t bytes() const { return size * (kind == Kind::ucs4 ? 4 : kind == Kind::ucs2 ? 2 : 1); }
};

// Returns the text as UTF-8: itself, or made in `storage`. Half of a surrogate pair becomes U+FFFD if
// `replace` is set.
// Throws std::invalid_argument at such a half otherwise; the message ends in its place.
std::string_view to_utf8(const TextView& text, bool replace, std::string& storage);

// Number of UTF-8 characters of valid text.
std::size_t count_characters(std::string_view utf8);

// A range of texts: [begin, end).
struct TextRange {
  std::size_t begin, end;
};

// Cuts texts into consecutive ranges of about `bytes` each.
std::vector<TextRange> split_texts(std::span<const TextView> texts, std::size_t bytes);

// Calls work(task, thread) for task = 0 .. tasks - 1 on at most n_threads threads, each task once. The
// calling thread is thread 0. The exception of the task with the least number is thrown again at the end.
void run_tasks(std::size_t tasks, std::size_t n_threads,
               const std::function<void(std::size_t task, std::size_t thread)>& work);

}  // namespace edad_fast::wordpiece
