// Threads over independent items.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace edad_fast {

// Calls work(item) for each item below `items`. False where one of them threw.
template <class Work>
bool for_each_item(std::int64_t items, int threads, Work&& work) {
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> failed{false};
  auto take = [&] {
    try {
      for (std::int64_t item; (item = next.fetch_add(1)) < items;) work(item);
    } catch (...) {
      failed = true;
    }
  };
  const auto extra = std::min<std::int64_t>(threads, items) - 1;
  std::vector<std::thread> team;
  try {
    for (std::int64_t i = 0; i < extra; ++i) team.emplace_back(take);
  } catch (...) {  // fewer threads then
  }
  take();
  for (std::thread& thread : team) thread.join();
  return !failed;
}

}  // namespace edad_fast
