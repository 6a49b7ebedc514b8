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

TEST_CASE("an output that shares memory with an input is refused, blocks side by side are not") {
  Matrix<float> m = Matrix<float>::Zero(20, 30), other = m;
  const auto refused = [](const auto& input, const auto& output) {
    return test::message_of<loraplus::ArgumentError>([&] {
             loraplus::require_distinct("f", input, output);
           }) == "f: an output must not be the memory of an input";
  };
  const auto accepted = [](const auto& input, const auto& output) {
    return !loraplus::detail::share_memory(input, output) &&
           !loraplus::detail::share_memory(output, input);
  };
  CHECK(refused(m, m));
  CHECK(refused(m.leftCols(20), m.middleCols(10, 20)));
  CHECK(refused(m.topRows(12), m.bottomRows(9)));
  CHECK(refused(m.block(3, 2, 5, 6), m.block(7, 7, 5, 6)));
  CHECK(refused(m.col(4), m));
  CHECK(accepted(m, other));
  CHECK(accepted(m.leftCols(15), m.rightCols(15)));
  CHECK(accepted(m.topRows(12), m.bottomRows(8)));
  CHECK(accepted(m.block(3, 2, 5, 6), m.block(8, 2, 5, 6)));
  CHECK(accepted(m.col(4), m.col(5)));
  CHECK(accepted(m.leftCols(0), m));
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
