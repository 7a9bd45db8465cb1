#include "scan.hpp"

#include <algorithm>
#include <bit>

// x86-64 always has SSE2; AVX2 is asked for when the program runs. EDAD_FAST_SCALAR: as on other processors.
#if defined(__SSE2__) && !defined(EDAD_FAST_SCALAR)
#define EDAD_FAST_SSE2
#include <immintrin.h>
#if defined(__GNUC__) && defined(__x86_64__)
#define EDAD_FAST_AVX2
#define EDAD_FAST_AVX2_CODE [[gnu::target("avx2,bmi,popcnt")]]
#endif
#endif

#if defined(__GNUC__)
#define EDAD_FAST_INLINE [[gnu::always_inline]] inline
#else
#define EDAD_FAST_INLINE inline
#endif

namespace edad_fast::wordpiece {
namespace {

// One bit a byte of a block of 64; what is none of the three is odd.
struct Classes {
  std::uint64_t word = 0;   // ASCII letters and digits
  std::uint64_t punct = 0;  // printable ASCII that is neither word nor space
  std::uint64_t space = 0;  // ' ', '\t', '\n', '\r'
};

// Each lower-cases a block in place, if asked for, and tells its classes.

#if defined(EDAD_FAST_SSE2)

struct Sse2Block {
  // Bytes of `values` in [first, first + length]: all bits set.
  static __m128i in_range(__m128i values, char first, char length) {
    const __m128i distance = _mm_sub_epi8(values, _mm_set1_epi8(first));
    return _mm_cmpeq_epi8(_mm_min_epu8(distance, _mm_set1_epi8(length)), distance);
  }

  static std::uint64_t to_bits(__m128i mask) {
    return static_cast<std::uint64_t>(static_cast<unsigned>(_mm_movemask_epi8(mask)));
  }

  static Classes classify(unsigned char* block, bool lowercase) {
    Classes classes;
    const __m128i case_bit = _mm_set1_epi8(lowercase ? 0x20 : 0);
    for (unsigned part = 0; part < 64; part += 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + part));
      const __m128i upper = in_range(bytes, 'A', 25);
      const __m128i word =
          _mm_or_si128(_mm_or_si128(upper, in_range(bytes, 'a', 25)), in_range(bytes, '0', 9));
      // 9 and 10 are neighbours.
      const __m128i space =
          _mm_or_si128(in_range(bytes, '\t', 1), _mm_or_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(' ')),
                                                              _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\r'))));
      const __m128i punct = _mm_andnot_si128(word, in_range(bytes, '!', '~' - '!'));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(block + part),
                       _mm_or_si128(bytes, _mm_and_si128(upper, case_bit)));
      classes.word |= to_bits(word) << part;
      classes.punct |= to_bits(punct) << part;
      classes.space |= to_bits(space) << part;
    }
    return classes;
  }
};

#else

struct ScalarBlock {
  static Classes classify(unsigned char* block, bool lowercase) {
    Classes classes;
    for (unsigned i = 0; i < 64; ++i) {
      const unsigned char byte = block[i];
      const auto within = [&](char first, char last) {
        return static_cast<unsigned char>(byte - first) <= static_cast<unsigned char>(last - first);
      };
      const bool upper = within('A', 'Z');
      const bool word = upper || within('a', 'z') || within('0', '9');
      block[i] = static_cast<unsigned char>(upper && lowercase ? byte | 0x20 : byte);
      classes.word |= static_cast<std::uint64_t>(word) << i;
      classes.punct |= static_cast<std::uint64_t>(within('!', '~') && !word) << i;
      classes.space |= static_cast<std::uint64_t>(is_ascii_space(static_cast<char>(byte))) << i;
    }
    return classes;
  }
};

#endif

#if defined(EDAD_FAST_AVX2)

struct Avx2Block {
  EDAD_FAST_AVX2_CODE static __m256i in_range(__m256i values, char first, char length) {
    const __m256i distance = _mm256_sub_epi8(values, _mm256_set1_epi8(first));
    return _mm256_cmpeq_epi8(_mm256_min_epu8(distance, _mm256_set1_epi8(length)), distance);
  }

  EDAD_FAST_AVX2_CODE static std::uint64_t to_bits(__m256i mask) {
    return static_cast<std::uint64_t>(static_cast<unsigned>(_mm256_movemask_epi8(mask)));
  }

  EDAD_FAST_AVX2_CODE static Classes classify(unsigned char* block, bool lowercase) {
    Classes classes;
    const __m256i case_bit = _mm256_set1_epi8(lowercase ? 0x20 : 0);
    for (unsigned part = 0; part < 64; part += 32) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + part));
      const __m256i upper = in_range(bytes, 'A', 25);
      const __m256i word =
          _mm256_or_si256(_mm256_or_si256(upper, in_range(bytes, 'a', 25)), in_range(bytes, '0', 9));
      const __m256i space = _mm256_or_si256(
          in_range(bytes, '\t', 1), _mm256_or_si256(_mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(' ')),
                                                    _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8('\r'))));
      const __m256i punct = _mm256_andnot_si256(word, in_range(bytes, '!', '~' - '!'));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(block + part),
                          _mm256_or_si256(bytes, _mm256_and_si256(upper, case_bit)));
      classes.word |= to_bits(word) << part;
      classes.punct |= to_bits(punct) << part;
      classes.space |= to_bits(space) << part;
    }
    return classes;
  }
};

#endif

EDAD_FAST_INLINE std::uint16_t* write_positions(std::uint64_t bits, std::size_t base, std::uint16_t* out) {
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

template <typename Block>
EDAD_FAST_INLINE void Window::classify_blocks(std::size_t size, bool lowercase) {
  std::uint64_t word_carry = 0;
  std::uint64_t punct_carry = 0;
  std::uint64_t any_odd = 0;
  std::uint16_t* begin = begins_;
  std::uint16_t* end = ends_;
  for (std::size_t base = 0; base < size; base += 64) {
    const Classes classes = Block::classify(bytes_ + base, lowercase);
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
  if ((word_carry | punct_carry) != 0) {
    *end = static_cast<std::uint16_t>(size);
  }
  tokens_ = static_cast<std::size_t>(begin - begins_);
  has_odd_ = any_odd != 0;
}

#if defined(EDAD_FAST_AVX2)
EDAD_FAST_AVX2_CODE void Window::classify_avx2(std::size_t size, bool lowercase) {
  classify_blocks<Avx2Block>(size, lowercase);
}
#endif

void Window::classify(std::size_t size, bool lowercase) {
#if defined(EDAD_FAST_AVX2)
  static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("bmi") != 0 &&
                               __builtin_cpu_supports("popcnt") != 0;
  if (has_avx2) {
    classify_avx2(size, lowercase);
    return;
  }
#endif
#if defined(EDAD_FAST_SSE2)
  classify_blocks<Sse2Block>(size, lowercase);
#else
  classify_blocks<ScalarBlock>(size, lowercase);
#endif
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
