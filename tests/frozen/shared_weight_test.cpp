#include <loraplus/frozen/shared_weight.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::Matrix;
using loraplus::SharedWeight;
using loraplus::Vector;

TEMPLATE_TEST_CASE("a shared weight computes W x + b and W' dy", "", float, double) {
  using Scalar = TestType;
  const double tolerance = std::is_same_v<Scalar, float> ? 1e-5 : 1e-14;
  const auto w = test::random_matrix<Scalar>(9, 6, 1);
  const auto b = test::random_vector<Scalar>(9, 2);
  const auto x = test::random_matrix<Scalar>(6, 5, 3);
  const auto dy = test::random_matrix<Scalar>(9, 5, 4);
  const SharedWeight<Scalar> weight(w, b);
  Matrix<Scalar> y(9, 5), dx(6, 5);
  weight.forward(x, y);
  weight.backward(dy, dx);
  const Matrix<Scalar> expected = (w * x).colwise() + b;
  CHECK(test::relative_distance(y, expected) < tolerance);
  CHECK(test::relative_distance(dx, w.transpose() * dy) < tolerance);
  CHECK(weight.bias() == b);
}

TEST_CASE("copies share one matrix, and moving a matrix in does not copy it") {
  auto w = test::random_matrix<float>(4, 3, 1);
  const float* data = w.data();
  const SharedWeight<float> first(std::move(w));
  const SharedWeight<float> second = first;
  CHECK(first.weight().data() == data);
  CHECK(second.weight().data() == data);
  CHECK(first.bias().size() == 0);
}

TEST_CASE("a shared weight outlives the one it was copied from") {
  auto first = std::make_unique<SharedWeight<float>>(Matrix<float>::Ones(2, 2));
  const SharedWeight<float> second = *first;
  first.reset();
  CHECK(second.weight().sum() == 4);
}

TEST_CASE("a bias of another size is refused") {
  CHECK(test::message_of<loraplus::ShapeError>([] {
          SharedWeight<float>(Matrix<float>(4, 3), Vector<float>(5));
        }) == "SharedWeight: b must be 4 x 1, found 5 x 1");
}
