// Programs that are killed, as kill -9 does it.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <exception>
#include <iostream>
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

}  // namespace test
