// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>

namespace loraplus::inline v0_1 {

/// A file that cannot be read or written, or is not what it should be. Says which file, where in it
/// and why.
class FileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace loraplus
