#include "text.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "unicode.hpp"

namespace edad_fast::wordpiece {
namespace {

char* put(char* out, char32_t code) {
  const Utf8Bytes character = to_utf8(code);
  std::memcpy(out, &character.bytes, sizeof(character.bytes));  // there is room for four bytes
  return out + character.length;
}

// Eight units are ASCII: copies them. A plain loop that compilers turn into vector code.
template <typename Unit>
bool copy_ascii(const Unit* in, char* out) {
  std::uint32_t any = 0;
  for (int i = 0; i < 8; ++i) {
    any |= in[i];
    out[i] = static_cast<char>(in[i]);
  }
  return any < 0x80;
}

template <typename Unit>
std::string_view transcode(const Unit* units, std::size_t size, bool replace, std::string& storage) {
  constexpr std::size_t kLongest = sizeof(Unit) == 1 ? 2 : sizeof(Unit) == 2 ? 3 : 4;
  if (storage.size() < size * kLongest + 8) {
    storage.resize(std::max(size * kLongest + 8, 2 * storage.size()));
  }
  char* out = storage.data();
  std::size_t i = 0;
  while (i < size) {
    if (i + 8 <= size && copy_ascii(units + i, out)) {
      i += 8;
      out += 8;
      continue;
    }
    for (const std::size_t stop = std::min(size, i + 8); i < stop; ++i) {
      std::uint32_t code = units[i];
      if (sizeof(Unit) > 1 && code >= 0xD800 && code <= 0xDFFF) {
        if (!replace) {
          throw std::invalid_argument("half of a surrogate pair at character " + std::to_string(i));
        }
        code = 0xFFFD;
      }
      out = put(out, code);
    }
  }
  return {storage.data(), static_cast<std::size_t>(out - storage.data())};
}

}  // namespace

std::string_view to_utf8(const TextView& text, bool replace, std::string& storage) {
  switch (text.kind) {
    case TextView::Kind::latin1:
      return transcode(static_cast<const std::uint8_t*>(text.data), text.size, replace, storage);
    case TextView::Kind::ucs2:
      return transcode(static_cast<const std::uint16_t*>(text.data), text.size, replace, storage);
    case TextView::Kind::ucs4:
      return transcode(static_cast<const std::uint32_t*>(text.data), text.size, replace, storage);
    case TextView::Kind::utf8:
      break;
  }
  return {static_cast<const char*>(text.data), text.size};
}

std::size_t count_characters(std::string_view utf8) {
  return static_cast<std::size_t>(std::ranges::count_if(
      utf8, [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }));
}

std::vector<TextRange> split_texts(std::span<const TextView> texts, std::size_t bytes) {
  std::vector<TextRange> ranges;
  std::size_t begin = 0;
  std::size_t size = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    size += texts[i].bytes() + 16;
    if (size >= bytes) {
      ranges.push_back({begin, i + 1});
      begin = i + 1;
      size = 0;
    }
  }
  if (begin < texts.size()) {
    ranges.push_back({begin, texts.size()});
  }
  return ranges;
}

void run_tasks(std::size_t tasks, std::size_t n_threads,
               const std::function<void(std::size_t task, std::size_t thread)>& work) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  std::size_t failed_task = tasks;
  const auto run = [&](std::size_t thread) {
    for (std::size_t task = next++; task < tasks; task = next++) {
      try {
        work(task, thread);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (task < failed_task) {
          failed_task = task;
          failure = std::current_exception();
        }
        next = tasks;  // tasks begun before, the lower ones, still end
      }
    }
  };
  std::vector<std::thread> threads;
  const auto join = [&] {
    for (std::thread& thread : threads) {
      thread.join();
    }
  };
  try {
    for (std::size_t thread = 1; thread < std::min(n_threads, tasks); ++thread) {
      threads.emplace_back(run, thread);
    }
  } catch (const std::system_error&) {
    // The system gives no more threads: those there are do the work.
  }
  run(0);
  join();
  if (failure) {
    std::rethrow_exception(failure);
  }
}

}  // namespace edad_fast::wordpiece
