// Counter-based random numbers: bit for bit those of edad_fast/batches/hashing.py, which says why.
#pragma once

#include <cstdint>

namespace edad_fast::batches {

// Purposes whose numbers the core draws; values as in Python.
enum class Purpose : std::int64_t { mask = 3, action = 4, replacement = 5 };

inline constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15;

// SplitMix64's output function (Steele, Lea and Flood 2014).
constexpr std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

// Number `counter` of the stream `key`.
constexpr std::uint64_t draw(std::uint64_t key, std::int64_t counter) {
  return mix(key + (static_cast<std::uint64_t>(counter) + 1) * kGolden);
}

constexpr std::uint64_t row_key(std::uint64_t seed, Purpose purpose, std::int64_t epoch, std::int64_t row) {
  return draw(draw(draw(mix(seed + kGolden), static_cast<std::int64_t>(purpose)), epoch), row);
}

// A float64 in [0, 1).
constexpr double unit(std::uint64_t value) { return static_cast<double>(value >> 11) * 0x1p-53; }

}  // namespace edad_fast::batches
