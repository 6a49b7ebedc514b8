#include <loraplus/core/error.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"

using loraplus::Matrix;

TEST_CASE("a shape error names function, matrix, expected and found shape") {
  const Matrix<float> x(3, 4);
  CHECK_NOTHROW(loraplus::require_shape("f", "x", x, 3, 4));
  const std::string message = test::message_of<loraplus::ShapeError>(
      [&] { loraplus::require_shape("LoraLinear::forward", "x", x, 5, 4); });
  CHECK(message == "LoraLinear::forward: x must be 5 x 4, found 3 x 4");
  CHECK_THROWS_AS(loraplus::require_shape("f", "x", x, 3, 5), loraplus::ShapeError);
}

TEST_CASE("a batch that is too large names both sizes") {
  CHECK_NOTHROW(loraplus::require_batch_fits("f", 4, 4));
  const std::string message =
      test::message_of<loraplus::ShapeError>([] { loraplus::require_batch_fits("f", 5, 4); });
  CHECK(message == "f: a batch of 5 samples, there is room for at most 4");
}

TEST_CASE("a shape error is an argument error, and that an invalid_argument") {
  const Matrix<float> x(1, 1);
  CHECK_THROWS_AS(loraplus::require_shape("f", "x", x, 2, 1), loraplus::ArgumentError);
  CHECK_THROWS_AS(loraplus::require_shape("f", "x", x, 2, 1), std::invalid_argument);
}
