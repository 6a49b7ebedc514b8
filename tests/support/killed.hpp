// Programs that are killed, as kill -9 does it.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <exception>
#include <iostream>
#include <loraplus/core/random.hpp>
#include <random>
#include <stdexcept>
#include <thread>

namespace test {

/// Does the action in a process of its own, and kills that after so many milliseconds.
/// @return whether it had come to its end before
/// @throws std::runtime_error if it had ended with an exception, which is printed
template <typename Action>
bool ends_before_kill(double milliseconds, Action&& action) {
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("cannot fork");
  if (child == 0) {
    try {
      action();
    } catch (const std::exception& error) {  // must not run on into the tests of this process
      std::cerr << "in the process to be killed: " << error.what() << std::endl;
      ::_exit(1);
    }
    ::_exit(0);
  }
  std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(milliseconds));
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) {
    throw std::runtime_error("the action ended with an error");
  }
  return WIFEXITED(status);
}

/// Kills the action 50 times, each after up to 20 ms, more on a machine that is too busy.
/// @param has_written called after each, whether the action has written anything
/// @return how often it had
template <typename Action, typename HasWritten>
int killed_at_any_moment(std::mt19937_64 generator, Action&& action, HasWritten&& has_written) {
  int written = 0;
  double longest = 20;
  for (int kill = 0; kill < 50; ++kill) {
    ends_before_kill(loraplus::uniform(generator, 0.0, longest), action);
    written += has_written() ? 1 : 0;
    if (written == 0) longest = std::min(1.5 * longest, 1000.0);
  }
  return written;
}

}  // namespace test
