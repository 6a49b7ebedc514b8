#include "progress.hpp"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <iostream>
#include <utility>

namespace finetune {
namespace {

constexpr auto terminal_interval = std::chrono::milliseconds(100);
constexpr auto line_interval = std::chrono::seconds(10);

/// "1:05"
std::string minutes_and_seconds(double seconds) {
  const auto whole = std::llround(seconds);
  const std::string rest = std::to_string(whole % 60);
  return std::to_string(whole / 60) + (rest.size() == 1 ? ":0" : ":") + rest;
}

}  // namespace

Progress::Progress(bool quiet) : quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1) {}

void Progress::begin(std::string label, Index total, std::string unit) {
  label_ = std::move(label);
  unit_ = std::move(unit);
  total_ = total;
  done_ = 0;
  start_ = Clock::now();
  next_show_ = start_ + (terminal_ ? Clock::duration(terminal_interval) : line_interval);
}

void Progress::advance(Index steps) {
  const std::lock_guard lock(mutex_);
  done_ += steps;
  const auto now = Clock::now();
  if (quiet_ || now < next_show_) return;
  next_show_ = now + (terminal_ ? Clock::duration(terminal_interval) : line_interval);
  show();
}

void Progress::end() {
  if (quiet_) return;
  show();
  if (terminal_) std::cerr << '\n';
}

void Progress::show() {
  const std::string text = label_ + ' ' + bar() + speed_and_time();
  if (terminal_) {
    std::cerr << '\r' << text << "\x1b[K"
              << std::flush;  // the code clears what is left of a longer line
  } else {
    std::cerr << text << '\n';
  }
}

/// "[######......]  50 %"
std::string Progress::bar() const {
  const double share = total_ == 0 ? 1 : static_cast<double>(done_) / static_cast<double>(total_);
  char percent[16];
  std::snprintf(percent, sizeof percent, "%3.0f %%", 100 * share);
  if (!terminal_) return percent;
  constexpr std::size_t width = 20;  // the whole line fits 80 columns
  const auto filled = static_cast<std::size_t>(share * static_cast<double>(width));
  return '[' + std::string(filled, '#') + std::string(width - filled, '.') + "] " + percent;
}

/// ", 812 steps/s, 0:12 left" and the like
std::string Progress::speed_and_time() const {
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  if (done_ == 0 || seconds <= 0) return {};
  const double rate = static_cast<double>(done_) / seconds;
  const std::string speed = ", " + std::to_string(std::llround(rate)) + ' ' + unit_ + "/s, ";
  if (done_ == total_) return speed + "took " + minutes_and_seconds(seconds);
  return speed + minutes_and_seconds(static_cast<double>(total_ - done_) / rate) + " left";
}

}  // namespace finetune
