#include <algorithm>
#include <functional>
#include <limits>
#include <loraplus/adapter/thin_svd.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"

using loraplus::Index;
using loraplus::Matrix;
using loraplus::detail::thin_svd;

TEST_CASE("a thin SVD has orthonormal sides and falling values, and makes the matrix again") {
  for (const auto& [rows, cols] : {std::pair{40, 24}, {24, 40}, {5, 3}, {1, 4}, {4, 1}}) {
    const auto matrix = test::random_matrix<double>(rows, cols, 1);
    const auto svd = thin_svd(matrix);
    const Index k = std::min(rows, cols);
    const auto identity = Matrix<double>::Identity(k, k);
    CHECK(test::relative_distance(svd.u.transpose() * svd.u, identity) < 1e-13);
    CHECK(test::relative_distance(svd.v.transpose() * svd.v, identity) < 1e-13);
    CHECK(test::relative_distance(svd.u * svd.s.asDiagonal() * svd.v.transpose(), matrix) < 1e-13);
    CHECK(svd.s.minCoeff() >= 0);
    CHECK(std::is_sorted(svd.s.data(), svd.s.data() + k, std::greater<>()));
  }
}

TEST_CASE("a thin SVD refuses what is not finite") {
  Matrix<double> matrix = Matrix<double>::Identity(20, 20);
  matrix(3, 4) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(thin_svd(matrix), loraplus::NonFiniteError);
  matrix(3, 4) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(thin_svd(matrix), loraplus::NonFiniteError);
}
