#include <loraplus/frozen/grouped_weight.hpp>
#include <loraplus/frozen/shared_weight.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"
#include "support/sparse_weight.hpp"

using loraplus::GroupedWeight;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::SharedWeight;

static_assert(loraplus::DenseWeight<GroupedWeight<SharedWeight<float>>>);
static_assert(!loraplus::DenseWeight<GroupedWeight<test::SparseWeight<float>>>);

TEST_CASE("grouped weights are one block-diagonal matrix with its zeros") {
  const auto first = test::random_matrix<double>(2, 3, 1),
             second = test::random_matrix<double>(4, 1, 2);
  const auto b = test::random_vector<double>(4, 3);
  const GroupedWeight<SharedWeight<double>> weight(
      {SharedWeight<double>(first), SharedWeight<double>(second, b)});
  Matrix<double> w = Matrix<double>::Zero(6, 4);
  w.topLeftCorner(2, 3) = first;
  w.bottomRightCorner(4, 1) = second;
  CHECK(loraplus::to_matrix(weight) == w);
  Matrix<double> read = Matrix<double>::Constant(6, 4, 7);  // zeros are written too
  weight.copy_to(read);
  CHECK(read == w);
  const auto x = test::random_matrix<double>(4, 5, 4), dy = test::random_matrix<double>(6, 5, 5);
  Matrix<double> y(6, 5), dx(4, 5);
  weight.forward(x, y);
  weight.backward(dy, dx);
  Matrix<double> expected = w * x;
  expected.bottomRows(4).colwise() += b;
  CHECK(test::relative_distance(y, expected) < 1e-14);
  CHECK(test::relative_distance(dx, w.transpose() * dy) < 1e-14);
  CHECK(weight.bias().size() == 6);
  CHECK(GroupedWeight<SharedWeight<double>>({SharedWeight<double>(first)}).bias().size() == 0);
  CHECK_THROWS_AS(GroupedWeight<SharedWeight<double>>({}), loraplus::ArgumentError);
}
