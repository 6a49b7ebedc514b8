#pragma once

#include <chrono>
#include <mutex>
#include <string>

#include "options.hpp"

namespace finetune {

/// Shows on stderr how far a phase of the program is: a bar with rate and time left on a terminal,
/// now and then a plain line elsewhere. May be advanced by several threads.
class Progress {
 public:
  explicit Progress(bool quiet);

  /// Begins a phase of `total` steps. @param label what is done, "pretraining", @param unit "steps"
  void begin(std::string label, Index total, std::string unit = "steps");

  void advance(Index steps = 1);

  /// Ends the phase, whether or not all steps were made.
  void end();

 private:
  using Clock = std::chrono::steady_clock;

  void show();
  std::string bar() const;
  std::string speed_and_time() const;

  bool quiet_;
  bool terminal_;
  std::mutex mutex_;
  std::string label_;
  std::string unit_;
  Index total_ = 0;
  Index done_ = 0;
  Clock::time_point start_;
  Clock::time_point next_show_;
};

}  // namespace finetune
