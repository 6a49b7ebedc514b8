// SPDX-License-Identifier: MIT
//
// Initialisations of an adapter that follow from the frozen weight, or from nothing but its shape.
// Where s B A is not zero at the start, residual() is the weight to freeze, so that the adapted
// layer computes what the layer did. All is computed in double and rounded once, at the end.
#pragma once

#include <Eigen/QR>
#include <algorithm>
#include <cmath>
#include <loraplus/adapter/factors.hpp>
#include <loraplus/adapter/thin_svd.hpp>
#include <loraplus/core/random.hpp>

namespace loraplus::inline v0_1 {

namespace detail {

/// Throws ArgumentError unless 1 <= rank <= largest. @param reason what sets the largest rank
inline void require_rank(std::string_view where, Index rank, Index largest,
                         std::string_view reason) {
  require_argument(rank >= 1 && rank <= largest, where,
                   "rank must be from 1 to " + std::to_string(largest) + ", " + std::string(reason),
                   static_cast<double>(rank));
}

/// Throws ArgumentError unless 1 <= rank <= min(out, in).
inline void require_rank_within(std::string_view where, Index rank, Index out, Index in) {
  require_rank(where, rank, std::min(out, in),
               "the smaller side of the " + shape_text(out, in) + " weight");
}

inline void require_scaling(std::string_view where, double scaling) {
  require_argument(std::isfinite(scaling) && scaling > 0, where,
                   "the scaling must be positive and finite", scaling);
}

/// A copy in double. @throws NonFiniteError if a coefficient is a NaN or an infinity
template <typename Derived>
Matrix<double> finite_in_double(std::string_view where, std::string_view what,
                                const Eigen::MatrixBase<Derived>& matrix) {
  Matrix<double> copy = matrix.template cast<double>();
  require_finite(where, what, copy);
  return copy;
}

/// @param a r x in, @param b out x r; both matrices or expressions in double
template <RealScalar Scalar, typename A, typename B>
Factors<Scalar> rounded_factors(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b,
                                double scaling) {
  return {.a = a.template cast<Scalar>(), .b = b.template cast<Scalar>(), .scaling = scaling};
}

/// `count` components of a decomposition from the component `first` on.
inline ThinSvd components(const ThinSvd& svd, Index first, Index count) {
  return {svd.u.middleCols(first, count), svd.s.segment(first, count),
          svd.v.middleCols(first, count)};
}

/// A = sqrt(S / s) V', B = U sqrt(S / s): s B A = U S V', both factors of the same norm where V is
/// orthonormal.
template <RealScalar Scalar>
Factors<Scalar> balanced_factors(const ThinSvd& part, double scaling) {
  const Vector<double> root = (part.s / scaling).cwiseSqrt();
  const RowMajorMatrix<double> a = root.asDiagonal() * part.v.transpose();
  const Matrix<double> b = part.u * root.asDiagonal();
  return rounded_factors<Scalar>(a, b, scaling);
}

/// The leading components of w (Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1). Ten more
/// columns than the rank are sampled, with which the error of the range is near the smallest
/// possible (section 4.2 there); the basis is made orthonormal at each half of an iteration, or
/// the components below eps^(1 / (2 iterations + 1)) of the first would be lost.
template <RandomBits Generator>
ThinSvd randomized_svd(const Matrix<double>& w, Index rank, Index iterations,
                       Generator& generator) {
  constexpr Index oversampling = 10;
  const Index width = std::min(rank + oversampling, std::min(w.rows(), w.cols()));
  Matrix<double> directions(w.cols(), width);
  loraplus::fill_normal(directions, generator, 1);
  Matrix<double> range = thin_qr(w * directions).q;
  for (Index i = 0; i < iterations; ++i) {
    directions = thin_qr(w.transpose() * range).q;
    range = thin_qr(w * directions).q;
  }
  ThinSvd svd = thin_svd(range.transpose() * w);
  svd.u = range * svd.u;
  return components(svd, 0, rank);
}

}  // namespace detail

/// The weight to freeze beside factors that do not start at zero, W - s B A: with it the adapted
/// layer computes W x. Computed in double.
/// @param w out x in @return out x in
/// @throws ShapeError if the factors are not of this layer
template <typename Derived>
Matrix<typename Derived::Scalar> residual(const Eigen::MatrixBase<Derived>& w,
                                          const Factors<typename Derived::Scalar>& factors) {
  factors.validate("residual");
  require_shape("residual", "the product of the factors", factors.b * factors.a, w.rows(),
                w.cols());
  Matrix<double> difference = w.template cast<double>();
  difference.noalias() -=
      factors.scaling * factors.b.template cast<double>() * factors.a.template cast<double>();
  return difference.template cast<typename Derived::Scalar>();
}

/// PiSSA (Meng et al. 2024, arXiv:2404.02948, section 3), PEFT's "pissa": of W = U S V' the r
/// largest components, A = sqrt(S_r / s) V_r', B = U_r sqrt(S_r / s). s B A is the best
/// approximation of W of rank r; freeze residual(w, factors). The signs of a component are those of
/// the SVD.
/// @param w out x in @param rank r, at most min(out, in) @param scaling s
/// @throws ArgumentError if the rank or the scaling is out of its range
/// @throws NonFiniteError if a coefficient of w is a NaN or an infinity
template <typename Derived>
Factors<typename Derived::Scalar> pissa(const Eigen::MatrixBase<Derived>& w, Index rank,
                                        double scaling) {
  detail::require_rank_within("pissa", rank, w.rows(), w.cols());
  detail::require_scaling("pissa", scaling);
  const auto svd = detail::thin_svd(detail::finite_in_double("pissa", "the weight", w));
  return detail::balanced_factors<typename Derived::Scalar>(detail::components(svd, 0, rank),
                                                            scaling);
}

/// PiSSA with a randomised SVD, PEFT's "pissa_niter_N": the cost is that of 2 N + 2 products of W
/// with r + 10 columns. (PEFT samples no more than r columns and so is further from the exact
/// components for the same N.)
/// @param iterations N, at least 0; 16 as a rule, fewer where the singular values fall off fast
/// @throws as pissa(w, rank, scaling); ArgumentError also if iterations is negative
template <typename Derived, RandomBits Generator>
Factors<typename Derived::Scalar> pissa(const Eigen::MatrixBase<Derived>& w, Index rank,
                                        double scaling, Index iterations, Generator& generator) {
  detail::require_rank_within("pissa", rank, w.rows(), w.cols());
  detail::require_scaling("pissa", scaling);
  require_argument(iterations >= 0, "pissa", "iterations must be at least 0",
                   static_cast<double>(iterations));
  const Matrix<double> weight = detail::finite_in_double("pissa", "the weight", w);
  return detail::balanced_factors<typename Derived::Scalar>(
      detail::randomized_svd(weight, rank, iterations, generator), scaling);
}

/// OLoRA (Buyukakyuz 2024, arXiv:2406.01775), PEFT's "olora": of W = Q R the first r columns of Q
/// are B and the first r rows of R are A; freeze residual(w, factors). The signs are LAPACK's: the
/// diagonal of R is what Householder's reflections leave, negative as a rule.
/// @param w out x in @param rank r, at most min(out, in) @param scaling s
/// @throws ArgumentError if the rank or the scaling is out of its range
/// @throws NonFiniteError if a coefficient of w is a NaN or an infinity
template <typename Derived>
Factors<typename Derived::Scalar> olora(const Eigen::MatrixBase<Derived>& w, Index rank,
                                        double scaling) {
  detail::require_rank_within("olora", rank, w.rows(), w.cols());
  detail::require_scaling("olora", scaling);
  const Eigen::HouseholderQR<Matrix<double>> qr(detail::finite_in_double("olora", "the weight", w));
  const Matrix<double> q = qr.householderQ() * Matrix<double>::Identity(w.rows(), rank);
  const Matrix<double> r = qr.matrixQR().topRows(rank).triangularView<Eigen::Upper>();
  return detail::rounded_factors<typename Derived::Scalar>(r, q, scaling);
}

/// PEFT's "orthogonal" (https://datta0.github.io/posts/rethink-lora-init): neither factor is zero
/// and yet B A = 0, so that the weight stays as it is. The columns of A are in the span of the even
/// rows (from 0) of an orthogonal r x r matrix, the rows of B in that of the odd ones, with
/// coefficients from N(0, 1/100).
/// @return A r x in, B out x r
/// @param rank r, even @param scaling s
/// @throws ArgumentError if the rank is not even and positive, or the scaling is out of its range
template <RealScalar Scalar, RandomBits Generator>
Factors<Scalar> orthogonal(Index out, Index in, Index rank, double scaling, Generator& generator) {
  if (rank < 2 || rank % 2 != 0) {
    raise<ArgumentError>("orthogonal: requires an even rank, got " + std::to_string(rank));
  }
  detail::require_scaling("orthogonal", scaling);
  Matrix<double> normal(rank, rank), a_mix(in, rank / 2), b_mix(out, rank / 2);
  loraplus::fill_normal(normal, generator, 1);
  loraplus::fill_normal(a_mix, generator, 0.1);
  loraplus::fill_normal(b_mix, generator, 0.1);
  const Matrix<double> q = detail::thin_qr(normal).q;
  const auto half = [&](Index first) -> Matrix<double> {
    return q(Eigen::seqN(first, rank / 2, 2), Eigen::seqN(0, rank));
  };
  const Matrix<double> a = half(0).transpose() * a_mix.transpose();
  const Matrix<double> b = b_mix * half(1);
  return detail::rounded_factors<Scalar>(a, b, scaling);
}

/// A trained adapter over the residual as one over the untouched weight: W_res + s B A =
/// W + s (B A - B0 A0) with A' = [A; A0], B' = [B, -B0] (PEFT's
/// subtract_mutated_init). The rank is the sum of
/// both, and s stays: alpha' = 2 alpha where s = alpha / r, alpha' = sqrt(2) alpha where
/// s = alpha / sqrt(r). The bias of the trained adapter stays too. A layer with a rank or an alpha
/// of its own is converted as any other.
/// @param initial the factors that training began with
/// @throws ShapeError if the two are not of one layer
/// @throws ArgumentError if their scalings differ
template <RealScalar Scalar>
Factors<Scalar> to_plain(const Factors<Scalar>& trained, const Factors<Scalar>& initial) {
  trained.validate("to_plain");
  initial.validate("to_plain");
  require_shape("to_plain", "the initial A", initial.a, initial.rank(), trained.in_features());
  require_shape("to_plain", "the initial B", initial.b, trained.out_features(), initial.rank());
  require_argument(trained.scaling == initial.scaling, "to_plain",
                   "the initial factors must have the scaling of the trained ones",
                   initial.scaling);
  const Index rank = trained.rank() + initial.rank();
  Factors<Scalar> plain{.a = RowMajorMatrix<Scalar>(rank, trained.in_features()),
                        .b = Matrix<Scalar>(trained.out_features(), rank),
                        .scaling = trained.scaling,
                        .bias = trained.bias};
  plain.a << trained.a, initial.a;
  plain.b << trained.b, -initial.b;
  return plain;
}

}  // namespace loraplus
