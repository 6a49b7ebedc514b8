#include <cmath>
#include <loraplus/core/fused_multiply_add.hpp>
#include <loraplus/core/random.hpp>
#include <random>

#include "support/catch.hpp"

using loraplus::detail::emulated_multiply_add;
using loraplus::detail::fused_multiply_add;

namespace {

struct Case {
  double a, b, c, exact;
};

// Worked by hand. Rounded to more bits first, as long double's 64, some end on the wrong side.
const Case cases[] = {
    {0x1p-53, 1, 1, 1},                                    // the middle: to even
    {0x1.0000000000001p-53, 1, 1, 0x1.0000000000001p+0},   // a little above it
    {-0x1.0000000000001p-53, 1, 0x1.0000000000001p+0, 1},  // and below another
    {0x1.fffffffffffffp-54, 1, 1, 1},                      // a little below it
    // 2^-157 below it and above it, more than what is left holds
    {0x1.0000000000001p-53, 0x1.ffffffffffffep-1, 0x1.0000000000001p+0, 0x1.0000000000001p+0},
    {-0x1.0000000000001p-53, 0x1.ffffffffffffep-1, 0x1.0000000000001p+0, 0x1.0000000000001p+0},
    // what is left of a square
    {0x1.0000000000001p+0, 0x1.0000000000001p+0, -0x1.0000000000002p+0, 0x1p-104},
    {0x1.8p+0, 0x1.8p+0, -0x1.2p+1, 0},
    {0, 5, -3, -3},
    {0x1.fffffffffffffp+99, 0x1p-99, -1, 0x1.ffffffffffffep-1},
};

}  // namespace

TEST_CASE("a multiply-add is rounded once") {
  for (const auto& [a, b, c, exact] : cases) {
    CHECK(fused_multiply_add(a, b, c) == exact);
    CHECK(fused_multiply_add(-a, b, -c) == -exact);
    CHECK(emulated_multiply_add(a, b, c) == exact);
    CHECK(emulated_multiply_add(-a, b, -c) == -exact);
  }
}

#ifndef __MINGW32__  // whose std::fma is what this stands in for
TEST_CASE("the emulation is std::fma, to the bit") {
  std::mt19937_64 generator{1};
  const auto number = [&] {
    return std::ldexp(loraplus::uniform(generator, -1, 1),
                      static_cast<int>(loraplus::uniform_index(generator, 120)) - 60);
  };
  for (int i = 0; i < 100000; ++i) {
    const double a = number(), b = number(), c = i % 2 == 0 ? number() : -a * b;
    if (emulated_multiply_add(a, b, c) != std::fma(a, b, c)) {
      FAIL_CHECK(a << " * " << b << " + " << c);
    }
  }
}
#endif
