// Tables of counts on disk; the format stands in count_list.hpp.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>

#include "count_list.hpp"
#include "utf8.hpp"

namespace edad_fast::wordpiece {
namespace {

static_assert(std::endian::native == std::endian::little, "the file holds integers as they lie in memory");

constexpr std::string_view kMagic = "EDADWCNT";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kFixedBytes = 40;
constexpr std::size_t kChecksumBytes = 8;

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

[[noreturn]] void fail(const std::string& path, const std::string& reason) {
  throw std::runtime_error(path + ": " + reason);
}

template <typename T>
void put(std::string& bytes, const T* values, std::size_t count) {
  bytes.append(reinterpret_cast<const char*>(values), count * sizeof(T));
}

template <typename T>
T take(std::string_view bytes, std::size_t position) {
  T value;
  std::memcpy(&value, bytes.data() + position, sizeof(T));
  return value;
}

std::string read_file(const std::string& path) {
  const File file(std::fopen(path.c_str(), "rb"));
  if (!file) {
    fail(path,
         std::string("cannot be read (") + std::strerror(errno) + "); check the path of the word counts");
  }
  std::string bytes;
  std::size_t size = 0;
  do {
    bytes.resize(std::max<std::size_t>(std::size_t{1} << 20, 2 * size));
    size += std::fread(bytes.data() + size, 1, bytes.size() - size, file.get());
  } while (size == bytes.size());
  if (std::ferror(file.get()) != 0) {
    fail(path, std::string("cannot be read (") + std::strerror(errno) + ")");
  }
  bytes.resize(size);
  return bytes;
}

}  // namespace

std::uint64_t checksum64(std::string_view bytes) {
  std::uint64_t hash = 0x9E3779B97F4A7C15U;
  const auto mix = [&](std::uint64_t lane) { hash = std::rotl((hash ^ lane) * 0x9FB21C651E98DF25U, 31); };
  std::size_t position = 0;
  for (; bytes.size() - position >= 8; position += 8) {
    mix(take<std::uint64_t>(bytes, position));
  }
  if (position < bytes.size()) {
    std::uint64_t lane = 0;
    std::memcpy(&lane, bytes.data() + position, bytes.size() - position);
    mix(lane);
  }
  mix(bytes.size());
  hash = (hash ^ hash >> 33) * 0xFF51AFD7ED558CCDU;
  hash = (hash ^ hash >> 33) * 0xC4CEB9FE1A85EC53U;
  return hash ^ hash >> 33;
}

void save_counts(const CountList& list, const std::string& path, std::string_view header) {
  constexpr std::size_t kMost32 = std::numeric_limits<std::uint32_t>::max();
  if (header.size() > kMost32) {
    throw std::invalid_argument("a header of 4 GiB or more");
  }
  std::string bytes;
  bytes.reserve(kFixedBytes + header.size() + 12 * list.size() + list.text.size() + kChecksumBytes);
  bytes += kMagic;
  const std::uint32_t small[] = {kVersion, static_cast<std::uint32_t>(header.size())};
  put(bytes, small, 2);
  const std::uint64_t sizes[] = {list.size(), list.text.size()};
  put(bytes, sizes, 2);
  put(bytes, &list.long_words, 1);
  bytes += header;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::size_t size = list.word(i).size();
    if (size > kMost32) {
      throw std::invalid_argument("a word of 4 GiB or more");
    }
    const auto length = static_cast<std::uint32_t>(size);
    put(bytes, &length, 1);
  }
  put(bytes, list.counts.data(), list.size());
  bytes += list.text;
  const std::uint64_t checksum = checksum64(bytes);
  put(bytes, &checksum, 1);

  File file(std::fopen(path.c_str(), "wb"));
  // Closing can be what fails when the disk is full.
  if (!file || std::fwrite(bytes.data(), 1, bytes.size(), file.get()) != bytes.size() ||
      std::fclose(file.release()) != 0) {
    fail(path, std::string("cannot be written (") + std::strerror(errno) + ")");
  }
}

std::pair<CountList, std::string> load_counts(const std::string& path) {
  const std::string file = read_file(path);
  const std::string_view bytes = file;
  if (!bytes.starts_with(kMagic.substr(0, bytes.size())) || bytes.empty()) {
    fail(path, "not a table of word counts: it does not start with EDADWCNT; make one with --save_counts");
  }
  const auto broken = [&](const std::string& reason) {
    fail(path, reason + "; the file is damaged: copy it again, or count again");
  };
  if (bytes.size() < kFixedBytes + kChecksumBytes) {
    broken("cut short: " + std::to_string(bytes.size()) + " bytes");
  }
  if (const auto version = take<std::uint32_t>(bytes, 8); version != kVersion) {
    fail(path, "version " + std::to_string(version) +
                   " of the format; this program reads version 1: " + "update it, or count again");
  }
  const std::uint64_t header_bytes = take<std::uint32_t>(bytes, 12);
  const auto words = take<std::uint64_t>(bytes, 16);
  const auto text_bytes = take<std::uint64_t>(bytes, 24);
  const std::uint64_t rest = bytes.size() - kFixedBytes - kChecksumBytes;
  // In an order in which nothing can overflow.
  if (header_bytes > rest || words > (rest - header_bytes) / 12 ||
      text_bytes != rest - header_bytes - 12 * words) {
    broken(std::to_string(bytes.size()) + " bytes do not fit " + std::to_string(words) + " words of " +
           std::to_string(text_bytes) + " bytes");
  }
  const std::size_t body = bytes.size() - kChecksumBytes;
  if (take<std::uint64_t>(bytes, body) != checksum64(bytes.substr(0, body))) {
    broken("the checksum is wrong");
  }

  // What follows cannot come from damage: another program wrote it.
  const auto invalid = [&](const std::string& reason) { fail(path, "invalid: " + reason + "; count again"); };
  const std::string_view header = bytes.substr(kFixedBytes, header_bytes);
  if (!is_valid_utf8(header)) {
    invalid("the header is not UTF-8");
  }
  CountList list;
  list.long_words = take<std::int64_t>(bytes, 32);
  if (list.long_words < 0) {
    invalid("a number of long words below 0");
  }
  const std::size_t lengths = kFixedBytes + header_bytes;
  const std::size_t counts = lengths + 4 * words;
  list.text = bytes.substr(counts + 8 * words, text_bytes);
  list.ends.reserve(words);
  list.counts.reserve(words);
  std::int64_t total = list.long_words;
  std::uint64_t end = 0;
  for (std::size_t i = 0; i < words; ++i) {
    const auto name = [&] { return "word " + std::to_string(i); };
    const auto length = take<std::uint32_t>(bytes, lengths + 4 * i);
    const auto count = take<std::int64_t>(bytes, counts + 8 * i);
    if (length == 0 || length > text_bytes - end) {
      invalid(name() + " has " + std::to_string(length) + " bytes");
    }
    if (count <= 0) {
      invalid(name() + " has the count " + std::to_string(count));
    }
    if (count > std::numeric_limits<std::int64_t>::max() - total) {
      invalid("the counts add up to more than 2**63 - 1");
    }
    total += count;
    end += length;
    list.ends.push_back(end);
    list.counts.push_back(count);
    if (!is_valid_utf8(list.word(i))) {
      invalid(name() + " is not UTF-8");
    }
    if (i > 0 && list.word(i - 1) >= list.word(i)) {
      invalid(name() + " is not behind the one before it in the order of bytes");
    }
  }
  if (end != text_bytes) {
    invalid("the lengths of the words do not add up");
  }
  return {std::move(list), std::string(header)};
}

}  // namespace edad_fast::wordpiece
