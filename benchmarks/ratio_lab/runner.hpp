#pragma once

#include <functional>
#include <span>
#include <vector>

#include "finetune_mlp/progress.hpp"
#include "store.hpp"

namespace lab {

/// Something to be found out once. The key tells all that decides the result; the work depends on
/// nothing else, least of all on threads and order.
struct Job {
  std::string key;
  std::function<Json()> work;
};

/// A results file that is read lacks results.
class Incomplete : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Does jobs on several threads, each result stored at once; what the store has is not done again.
class Runner {
 public:
  Runner(Store& store, unsigned threads, finetune::Progress& progress)
      : store_(store), threads_(threads), progress_(progress) {}

  /// @param phase for the progress line
  /// @return the results in the order of the jobs; a key may stand more than once
  /// @throws finetune::Interrupted after a signal, Incomplete if the store cannot be written to and
  /// lacks a result, and what the work throws
  std::vector<Json> run(const std::string& phase, std::span<const Job> jobs);

  /// The work of jobs that were done and not read from the store.
  std::size_t done() const { return done_; }
  unsigned threads() const { return threads_; }

 private:
  Store& store_;
  unsigned threads_;
  finetune::Progress& progress_;
  std::size_t done_ = 0;
};

}  // namespace lab
