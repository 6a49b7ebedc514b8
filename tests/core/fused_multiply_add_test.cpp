#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <loraplus/core/fused_multiply_add.hpp>
#include <loraplus/core/random.hpp>
#include <random>

#include "support/catch.hpp"

using loraplus::detail::can_be_emulated;
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
    // 2^-157 beside the middle: more bits than the rounded rest of the product holds
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

TEST_CASE("a multiply-add is right where nothing can be emulated") {
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(fused_multiply_add(1e301, 0.5, 0) == 5e300);
  CHECK(fused_multiply_add(0x1p1000, 0x1p-1000, 1) == 2);
  CHECK(fused_multiply_add(0x1p900, 0x1p100, 0x1p1000) == 0x1p1001);
  CHECK(fused_multiply_add(0x1p-1000, 0.5, 0x1p-1074) == 0x1p-1001 + 0x1p-1074);
  CHECK(fused_multiply_add(2, 3, infinity) == infinity);
  CHECK(fused_multiply_add(infinity, -3, 1) == -infinity);
  CHECK(std::isnan(fused_multiply_add(infinity, 0, 1)));
  CHECK(std::signbit(fused_multiply_add(-0.0, 1, -0.0)));
  for (const double out : {0x1p900, 0x1p-900, 0.0, infinity, std::nan("")}) {
    CHECK_FALSE(can_be_emulated(out, 1, 1));
    CHECK_FALSE(can_be_emulated(1, -out, 1));
  }
  CHECK_FALSE(can_be_emulated(1, 1, -0x1p900));
  CHECK(can_be_emulated(0x1p800, -0x1p-800, 0));
}

#ifndef __MINGW32__  // whose std::fma is what this stands in for
TEST_CASE("the emulation is std::fma, to the bit") {
  std::mt19937_64 generator{1};
  const auto number = [&] {
    return std::ldexp(loraplus::uniform(generator, -1, 1),
                      static_cast<int>(loraplus::uniform_index(generator, 880)) - 440);
  };
  const auto bits = [](double x) { return std::bit_cast<std::uint64_t>(x); };
  for (int i = 0; i < 100000; ++i) {
    const double a = number();
    const double b =
        i % 4 < 2 ? 1.5 / a : number();  // a b is of the size of c, or is -c, or neither
    const double c = i % 4 == 0   ? loraplus::uniform(generator, -4, 4)
                     : i % 4 == 1 ? -a * b
                                  : number();
    REQUIRE(can_be_emulated(a, b, c));
    if (bits(emulated_multiply_add(a, b, c)) != bits(std::fma(a, b, c))) {
      FAIL_CHECK(a << " * " << b << " + " << c);
    }
  }
}
#endif
