// Numbers as people read them.
#pragma once

#include <string>

#include "options.hpp"

namespace finetune {

/// "269,322"
std::string grouped(Index value);

/// With so many digits after the point: "0.50".
std::string fixed(double value, int digits);

/// With three significant digits: "0.00195".
std::string brief(double value);

/// "86.1 %"
std::string percent(double share);

}  // namespace finetune
