// An example of which PEFT 0.21 made the factors, in float: out = 4, in = 3.
#pragma once

#include <loraplus/core/matrix.hpp>

namespace test {

inline loraplus::Matrix<double> example_weight() {
  return loraplus::Matrix<double>{{4, 0, 1}, {2, 3, -1}, {0, 5, 2}, {-1, 1, 6}};
}

/// Four inputs of the layer, a column each.
inline loraplus::Matrix<double> example_inputs() {
  return loraplus::Matrix<double>{{2, 0, 1, -2}, {1, 1, 3, 0}, {0, -1, 1, 1}};
}

}  // namespace test
