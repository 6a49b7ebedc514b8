// What an exception says, for tests of messages.
#pragma once

#include <loraplus/core/error.hpp>
#include <stdexcept>
#include <string>

namespace test {

/// The message of the Error that `f` throws; anything else is a failure of the test.
template <typename Error, typename Function>
std::string message_of(Function&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  throw std::logic_error("nothing was thrown");
}

/// What the options say against themselves.
template <typename Options>
std::string refusal(const Options& options) {
  return message_of<loraplus::ArgumentError>([&] { options.validate(); });
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace test
