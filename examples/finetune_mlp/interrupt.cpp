#include "interrupt.hpp"

#include <atomic>
#include <csignal>

namespace finetune {
namespace {

std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free);  // else a handler could not use it

void note_interrupt(int signal) {
  interrupted = true;
  std::signal(signal, SIG_DFL);
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
