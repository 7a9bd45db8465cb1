#include "scan.hpp"

#include <algorithm>
#include <bit>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace edad_fast::wordpiece {
namespace {

// One bit a byte of a block of 64; what is none of the three is odd.
struct Classes {
  std::uint64_t word = 0;   // ASCII letters and digits
  std::uint64_t punct = 0;  // printable ASCII that is neither word nor space
  std::uint64_t space = 0;  // ' ', '\t', '\n', '\r'
};

#if defined(__SSE2__)

// Bytes of `values` in [first, first + length]: all bits set.
__m128i in_range(__m128i values, char first, char length) {
  const __m128i distance = _mm_sub_epi8(values, _mm_set1_epi8(first));
  return _mm_cmpeq_epi8(_mm_min_epu8(distance, _mm_set1_epi8(length)), distance);
}

std::uint64_t to_bits(__m128i mask) {
  return static_cast<std::uint64_t>(static_cast<unsigned>(_mm_movemask_epi8(mask)));
}

// Writes the block, lower-cased if asked for, to `out`.
Classes classify_block(const char* in, unsigned char* out, bool lowercase) {
  Classes classes;
  const __m128i case_bit = _mm_set1_epi8(lowercase ? 0x20 : 0);
  for (unsigned part = 0; part < 64; part += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + part));
    const __m128i upper = in_range(bytes, 'A', 25);
    const __m128i word = _mm_or_si128(_mm_or_si128(upper, in_range(bytes, 'a', 25)), in_range(bytes, '0', 9));
    // 9 and 10 are neighbours.
    const __m128i space = _mm_or_si128(
        in_range(bytes, '\t', 1),
        _mm_or_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(' ')), _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\r'))));
    const __m128i punct = _mm_andnot_si128(word, in_range(bytes, '!', '~' - '!'));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + part),
                     _mm_or_si128(bytes, _mm_and_si128(upper, case_bit)));
    classes.word |= to_bits(word) << part;
    classes.punct |= to_bits(punct) << part;
    classes.space |= to_bits(space) << part;
  }
  return classes;
}

#else

Classes classify_block(const char* in, unsigned char* out, bool lowercase) {
  Classes classes;
  for (unsigned i = 0; i < 64; ++i) {
    const auto byte = static_cast<unsigned char>(in[i]);
    const bool upper = static_cast<unsigned char>(byte - 'A') <= 25;
    const bool word =
        upper || static_cast<unsigned char>(byte - 'a') <= 25 || static_cast<unsigned char>(byte - '0') <= 9;
    const bool printable = static_cast<unsigned char>(byte - '!') <= '~' - '!';
    out[i] = static_cast<unsigned char>(upper && lowercase ? byte | 0x20 : byte);
    classes.word |= static_cast<std::uint64_t>(word) << i;
    classes.punct |= static_cast<std::uint64_t>(printable && !word) << i;
    classes.space |= static_cast<std::uint64_t>(is_ascii_space(in[i])) << i;
  }
  return classes;
}

#endif

std::uint16_t* write_positions(std::uint64_t bits, std::size_t base, std::uint16_t* out) {
  const int count = std::popcount(bits);
  // Eight at a time without a branch each; what is written too much is overwritten next.
  for (int done = 0; done < count; done += 8) {
    for (int i = 0; i < 8; ++i) {
      out[done + i] = static_cast<std::uint16_t>(base + static_cast<std::size_t>(std::countr_zero(bits)));
      bits &= bits - 1;
    }
  }
  return out + count;
}

}  // namespace

void Window::classify(std::size_t size, bool lowercase) {
  std::uint64_t word_carry = 0;
  std::uint64_t punct_carry = 0;
  std::uint64_t any_odd = 0;
  std::uint16_t* begin = begins_;
  std::uint16_t* end = ends_;
  for (std::size_t base = 0; base < size; base += 64) {
    // In place: bytes_ holds the text, padded with spaces.
    const Classes classes =
        classify_block(reinterpret_cast<const char*>(bytes_) + base, bytes_ + base, lowercase);
    const std::uint64_t word_before = classes.word << 1 | word_carry;
    const std::uint64_t punct_before = classes.punct << 1 | punct_carry;
    word_carry = classes.word >> 63;
    punct_carry = classes.punct >> 63;
    begin = write_positions((classes.word & ~word_before) | classes.punct, base, begin);
    end = write_positions((word_before & ~classes.word) | punct_before, base, end);
    space_[base / 64] = classes.space;
    odd_[base / 64] = ~(classes.word | classes.punct | classes.space);
    any_odd |= odd_[base / 64];
  }
  if (word_carry | punct_carry) {
    *end = static_cast<std::uint16_t>(size);
  }
  tokens_ = static_cast<std::size_t>(begin - begins_);
  has_odd_ = any_odd != 0;
}

std::size_t Window::fill(std::string_view text, bool lowercase) {
  std::size_t size = std::min(text.size(), kCapacity);
  if (size < text.size()) {
    while (size > 0 && !is_ascii_space(text[size - 1])) {
      --size;
    }
    if (size == 0) {
      return 0;
    }
  }
  std::memcpy(bytes_, text.data(), size);
  std::memset(bytes_ + size, ' ', kPadding);
  size_ = size;
  classify(size, lowercase);
  return size;
}

bool Window::find_odd_chunk(std::size_t from, std::size_t& begin, std::size_t& end) const {
  if (from >= size_) {
    return false;
  }
  std::size_t block = from / 64;
  const std::size_t last = (size_ - 1) / 64;
  std::uint64_t bits = odd_[block] & (~std::uint64_t{0} << (from % 64));
  while (bits == 0) {
    if (++block > last) {
      return false;
    }
    bits = odd_[block];
  }
  const auto bit = static_cast<unsigned>(std::countr_zero(bits));
  begin = from;
  for (std::size_t b = block;; --b) {
    std::uint64_t spaces = space_[b];
    if (b == block) {
      spaces &= (std::uint64_t{1} << bit) - 1;
    }
    if (spaces != 0) {
      begin = std::max(from, b * 64 + 64 - static_cast<std::size_t>(std::countl_zero(spaces)));
      break;
    }
    if (b * 64 <= from) {
      break;
    }
  }
  end = size_;
  for (std::size_t b = block; b <= last; ++b) {
    std::uint64_t spaces = space_[b];
    if (b == block) {
      spaces &= ~std::uint64_t{0} << bit;
    }
    if (spaces != 0) {
      end = std::min(size_, b * 64 + static_cast<std::size_t>(std::countr_zero(spaces)));
      break;
    }
  }
  return true;
}

}  // namespace edad_fast::wordpiece
