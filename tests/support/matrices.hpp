// Matrices for tests: random ones, and how far two are apart.
#pragma once

#include <cstring>
#include <loraplus/core/random.hpp>
#include <random>

namespace test {

using loraplus::Index;

/// Normal coefficients, rows x cols, from a seed.
template <typename Plain>
Plain random(Index rows, Index cols, unsigned seed) {
  std::mt19937_64 generator{seed};
  Plain matrix(rows, cols);
  loraplus::fill_normal(matrix, generator, 1);
  return matrix;
}

template <typename Scalar>
loraplus::Matrix<Scalar> random_matrix(Index rows, Index cols, unsigned seed) {
  return random<loraplus::Matrix<Scalar>>(rows, cols, seed);
}

template <typename Scalar>
loraplus::Vector<Scalar> random_vector(Index size, unsigned seed) {
  return random<loraplus::Vector<Scalar>>(size, 1, seed);
}

namespace detail {

inline double relative_distance(const loraplus::Matrix<double>& a,
                                const loraplus::Matrix<double>& b) {
  const double scale = b.norm(), distance = (a - b).norm();
  return scale > 0 ? distance / scale : distance;
}

}  // namespace detail

/// |a - b| / |b| in the Frobenius norm; |a| if b is zero; NaN if a coefficient is.
template <typename A, typename B>
double relative_distance(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  // Evaluated, or every pair of expressions would be one of its own to the compiler.
  return detail::relative_distance(a.template cast<double>(), b.template cast<double>());
}

/// Whether two matrices have the same shape and the same bits.
template <typename A, typename B>
bool same_bits(const Eigen::PlainObjectBase<A>& a, const Eigen::PlainObjectBase<B>& b) {
  static_assert(std::is_same_v<typename A::Scalar, typename B::Scalar>);
  static_assert(int(A::IsRowMajor) == int(B::IsRowMajor));
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         (a.size() == 0 ||
          std::memcmp(a.data(), b.data(),
                      static_cast<std::size_t>(a.size()) * sizeof(typename A::Scalar)) == 0);
}

}  // namespace test
