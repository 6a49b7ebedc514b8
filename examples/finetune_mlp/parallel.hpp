#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <future>
#include <vector>

namespace finetune {

/// Calls job(0) ... job(count - 1), on up to `threads` threads at a time, in no fixed order. When
/// it returns, no thread but the caller's is left. Throws what a job throws, after the others have
/// ended; no new ones begin then.
template <typename Job>
void parallel_for(std::size_t count, unsigned threads, Job job) {
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    try {
      for (std::size_t i = next++; i < count; i = next++) {
        job(i);
      }
    } catch (...) {
      next = count;
      throw;
    }
  };
  std::vector<std::future<void>> workers;
  for (std::size_t i = 0; i < std::min<std::size_t>(threads, count); ++i) {
    workers.push_back(std::async(std::launch::async, work));
  }
  for (auto& worker : workers) {
    worker.get();
  }
}

}  // namespace finetune
