// SPDX-License-Identifier: MIT
//
// Threads, by OpenMP where the program is compiled with it. What is computed never depends on how
// many there are, only who computes it.
#pragma once

#include <algorithm>
#include <loraplus/core/error.hpp>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace loraplus::inline v0_1::kernels {

/// Multiply-adds below which a second thread costs more than it brings.
inline constexpr Index smallest_share = Index{1} << 19;

/// The threads that a product of so many multiply-adds is worth: at most Eigen::nbThreads(), and
/// one inside a parallel region of the caller.
inline int choose_threads([[maybe_unused]] Index multiply_adds) {
#ifdef _OPENMP
  if (multiply_adds < 2 * smallest_share || omp_in_parallel() != 0) return 1;
  return static_cast<int>(
      std::min<Index>(multiply_adds / smallest_share, std::max(1, Eigen::nbThreads())));
#else
  return 1;
#endif
}

/// The threads that run a region together.
class Team {
 public:
  /// @param threads at least 1
  explicit Team(int threads) : threads_(threads) {}

  /// Calls run(team) on each thread of the team at once.
  template <typename Run>
  void start(Run&& run) const {
#ifdef _OPENMP
    if (threads_ > 1) {
#pragma omp parallel num_threads(threads_)
      run();
      return;
    }
#else
    static_cast<void>(threads_);  // one; GCC 11 warns of [[maybe_unused]] at a member
#endif
    run();
  }

  /// Inside `start`: deals task(0), ..., task(count - 1) out to the threads; all are done when it
  /// returns.
  template <typename Task>
  void share(Index count, Task&& task) const {
#ifdef _OPENMP
    if (threads_ > 1) {
#pragma omp for schedule(static)
      for (Index i = 0; i < count; ++i) {
        task(i);
      }
      return;
    }
#endif
    for (Index i = 0; i < count; ++i) {
      task(i);
    }
  }

 private:
  int threads_;
};

}  // namespace loraplus::kernels
