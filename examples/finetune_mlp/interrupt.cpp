#include "interrupt.hpp"

#include <atomic>
#include <chrono>
#include <csignal>

namespace finetune {
namespace {

using Clock = std::chrono::steady_clock;

std::atomic<bool> interrupted = false;
std::atomic<Clock::rep> first_interrupt = 0;
static_assert(std::atomic<bool>::is_always_lock_free);  // else a handler could not use them
static_assert(std::atomic<Clock::rep>::is_always_lock_free);

/// Notes the first; a later one ends the program at once, unless it is the same wish twice: who
/// started us, such as timeout, may hand on what the terminal sent already.
void note_interrupt(int signal) {
  const Clock::rep now = Clock::now().time_since_epoch().count();
  Clock::rep first = 0;
  if (first_interrupt.compare_exchange_strong(first, now)) {
    interrupted = true;
  } else if (Clock::duration(now - first) > std::chrono::milliseconds(300)) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace

void catch_interrupts() {
  std::signal(SIGINT, note_interrupt);
  std::signal(SIGTERM, note_interrupt);
  // In `finetune_mlp 2>&1 | tee log` Ctrl-C ends tee too; writing to it must not end us.
  std::signal(SIGPIPE, SIG_IGN);
}

void throw_if_interrupted() {
  if (interrupted) throw Interrupted{};
}

}  // namespace finetune
