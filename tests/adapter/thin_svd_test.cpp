#include <Eigen/SVD>
#include <loraplus/adapter/thin_svd.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::Index;
using loraplus::Matrix;
using loraplus::Vector;
using loraplus::detail::thin_qr;
using loraplus::detail::thin_svd;
using loraplus::detail::ThinSvd;

namespace {

/// out x in with these singular values.
Matrix<double> with_spectrum(Index out, Index in, const Vector<double>& s) {
  return thin_qr(test::random_matrix<double>(out, s.size(), 1)).q * s.asDiagonal() *
         thin_qr(test::random_matrix<double>(in, s.size(), 2)).q.transpose();
}

double orthonormality_error(const Matrix<double>& q) {
  return (q.transpose() * q - Matrix<double>::Identity(q.cols(), q.cols())).norm();
}

/// The defining properties, to rounding.
void require_decomposition(const ThinSvd& svd, const Matrix<double>& m) {
  const Index k = std::min(m.rows(), m.cols());
  REQUIRE(svd.u.rows() == m.rows());
  REQUIRE(svd.u.cols() == k);
  REQUIRE(svd.s.size() == k);
  REQUIRE(svd.v.rows() == m.cols());
  REQUIRE(svd.v.cols() == k);
  CHECK(svd.s.minCoeff() >= 0);
  for (Index i = 1; i < k; ++i) {
    CHECK(svd.s(i) <= svd.s(i - 1));
  }
  CHECK(orthonormality_error(svd.u) < 1e-13 * std::sqrt(static_cast<double>(k)));
  CHECK(orthonormality_error(svd.v) < 1e-13 * std::sqrt(static_cast<double>(k)));
  CHECK(test::relative_distance(svd.u * svd.s.asDiagonal() * svd.v.transpose(), m) < 1e-13);
}

}  // namespace

TEST_CASE("the SVD of random matrices of any shape is one, to rounding") {
  for (const auto& [out, in] : {std::pair<Index, Index>{1, 1},
                                {1, 9},
                                {9, 1},
                                {5, 3},
                                {3, 5},
                                {15, 17},
                                {40, 40},
                                {130, 70},
                                {20, 190}}) {
    CAPTURE(out, in);
    const auto m = test::random_matrix<double>(out, in, 3);
    require_decomposition(thin_svd(m), m);
  }
}

TEST_CASE("the singular values are those of Jacobi's method, to rounding of the largest") {
  const auto m = test::random_matrix<double>(60, 45, 4);
  const Vector<double> expected =
      Eigen::JacobiSVD<Matrix<long double>>(m.cast<long double>()).singularValues().cast<double>();
  CHECK((thin_svd(m).s - expected).cwiseAbs().maxCoeff() < 1e-14 * expected(0));
}

TEST_CASE(
    "the SVD of matrices of many equal singular values, which BDCSVD of Eigen 3.4 gets wrong") {
  std::mt19937_64 generator{5};
  for (int trial = 0; trial < 100; ++trial) {
    const Index out = 20 + loraplus::uniform_index(generator, 60);
    const Index in = 20 + loraplus::uniform_index(generator, 60);
    Vector<double> s(std::min(out, in));
    for (double& value : s)
      value = static_cast<double>(loraplus::uniform_index(generator, 4));
    const Matrix<double> m = with_spectrum(out, in, s);
    CAPTURE(out, in, s.transpose());
    require_decomposition(thin_svd(m), m);
  }
}

TEST_CASE("the SVD holds for graded, clustered, paired, deficient and equal singular values") {
  const Index k = 48;
  Vector<double> graded(k), clustered(k), in_pairs(k), deficient = Vector<double>::Zero(k);
  for (Index i = 0; i < k; ++i) {
    const auto x = static_cast<double>(i);
    graded(i) = std::pow(10.0, -x);
    clustered(i) = 1 - 1e-15 * x;
    in_pairs(i) = 1.0 / static_cast<double>(1 + i / 2);
  }
  deficient.head(3) << 5, 2, 1;
  const Vector<double> equal = Vector<double>::Ones(k);
  for (const Vector<double>& s : {graded, clustered, in_pairs, deficient, equal}) {
    CAPTURE(s.transpose());
    for (const double scale : {1.0, 1e-200, 1e+200}) {
      const Matrix<double> m = scale * with_spectrum(64, k, s);
      const ThinSvd svd = thin_svd(m);
      require_decomposition({svd.u, svd.s / scale, svd.v}, m / scale);
      CHECK((svd.s / scale - s).cwiseAbs().maxCoeff() < 1e-14 * s(0));
    }
  }
}

TEST_CASE(
    "the SVD of structured matrices: zero, identity, nilpotent, of one entry, of equal ones") {
  Matrix<double> single = Matrix<double>::Zero(30, 20), nilpotent = Matrix<double>::Zero(9, 9);
  single(17, 4) = -3;
  nilpotent.diagonal<1>().setOnes();  // bidiagonal and singular: the step of a shift is undefined
  const Matrix<double> zero = Matrix<double>::Zero(20, 30);
  const Matrix<double> identity = Matrix<double>::Identity(33, 33);
  const Matrix<double> ones = Matrix<double>::Ones(25, 40);
  for (const Matrix<double>& m : {zero, identity, nilpotent, single, ones}) {
    require_decomposition(thin_svd(m), m);
  }
  CHECK(thin_svd(Matrix<double>::Zero(3, 2)).s.isZero(0));
  const ThinSvd empty = thin_svd(Matrix<double>(4, 0));
  CHECK(empty.u.rows() == 4);
  CHECK(empty.u.size() + empty.s.size() + empty.v.size() == 0);
}

TEST_CASE("a thin QR is one, of an upper trapezoidal R") {
  for (const auto& [rows, cols] : {std::pair<Index, Index>{9, 4}, {4, 9}, {5, 5}, {1, 3}}) {
    const auto m = test::random_matrix<double>(rows, cols, 8);
    const auto qr = thin_qr(m);
    CHECK(qr.q.cols() == std::min(rows, cols));
    CHECK(orthonormality_error(qr.q) < 1e-14);
    CHECK(Matrix<double>(qr.r.triangularView<Eigen::StrictlyLower>()).isZero(0));
    CHECK(test::relative_distance(qr.q * qr.r, m) < 1e-14);
  }
}

TEST_CASE("the SVD refuses what is not finite") {
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    Matrix<double> m = Matrix<double>::Ones(20, 20);
    m(3, 7) = bad;
    CHECK(test::message_of<loraplus::NonFiniteError>([&] { thin_svd(m); }) ==
          "thin_svd: the matrix is not finite");
  }
}
