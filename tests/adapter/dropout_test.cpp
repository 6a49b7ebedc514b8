#include <loraplus/adapter/dropout.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"

using loraplus::Index;
using loraplus::Matrix;

TEMPLATE_TEST_CASE("a dropout mask holds 0 and 1 / (1 - p), in the right shares", "", float,
                   double) {
  std::mt19937_64 generator{1};
  for (const double p : {0.1, 0.5, 0.9}) {
    Matrix<TestType> mask(301, 300);
    loraplus::detail::draw_dropout_mask(p, mask, generator);
    const auto kept = static_cast<TestType>(1 / (1 - p));
    const Index dropped = (mask.array() == 0).count();
    CHECK((mask.array() == kept).count() == mask.size() - dropped);
    const auto count = static_cast<double>(mask.size());
    const double deviation = std::sqrt(p * (1 - p) / count);
    CHECK(std::abs(static_cast<double>(dropped) / count - p) < 5 * deviation);
  }
}

TEST_CASE("the mask's random bits are SplitMix64's") {
  CHECK(loraplus::detail::mixed(1) == 0xE220A8397B1DCDAFU);  // its first output for the seed 0
  CHECK(loraplus::detail::mixed(2) == 0x6E789E6AA1B965F4U);
}

TEST_CASE("masks of one generator differ, and each takes one draw") {
  std::mt19937_64 generator{3}, reference{3};
  Matrix<float> first(30, 4), second(30, 4);
  loraplus::detail::draw_dropout_mask(0.5, first, generator);
  loraplus::detail::draw_dropout_mask(0.5, second, generator);
  CHECK(first != second);
  reference.discard(2);
  CHECK(generator == reference);
}

TEST_CASE("a mask depends on the seed alone, and float and double share it") {
  Matrix<float> narrow(7, 5);
  Matrix<double> wide(7, 5);
  std::mt19937_64 first{3}, second{3};
  loraplus::detail::draw_dropout_mask(0.5, narrow, first);
  loraplus::detail::draw_dropout_mask(0.5, wide, second);
  CHECK(narrow.cast<double>() == wide);
  CHECK(narrow.col(0) != narrow.col(1));
}
