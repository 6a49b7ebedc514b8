// SPDX-License-Identifier: MIT
//
// A weight difference turned into an adapter: its best approximation of a rank (Eckart and Young).
#pragma once

#include <loraplus/adapter/weighted_factors.hpp>
#include <numeric>

namespace loraplus::inline v0_1 {

/// How many singular components an adapter keeps: a number of them, or as many as hold a share of
/// the energy, the sum of the squared singular values.
class RankChoice {
 public:
  /// Exactly this many. @throws ArgumentError unless rank >= 1
  static RankChoice fixed(Index rank) {
    require_argument(rank >= 1, "RankChoice", "the rank must be at least 1",
                     static_cast<double>(rank));
    return {rank, 0};
  }

  /// The fewest, and at least one, that hold this share of the energy. A share of 1 leaves out what
  /// adds nothing to a sum in double: singular values below about 1e-8 of the largest.
  /// @throws ArgumentError unless the share is in (0, 1]
  static RankChoice energy(double share) {
    require_argument(share > 0 && share <= 1, "RankChoice",
                     "the share of the energy must be in (0, 1]", share);
    return {0, share};
  }

  /// The rank for these singular values, descending, of an out x in matrix.
  /// @throws ArgumentError if a fixed rank is larger than a side, or a side is 0
  Index rank_for(const Vector<double>& singular_values, Index out, Index in) const {
    const Index largest = std::min(out, in);
    const Index rank = rank_ > 0 ? rank_ : rank_of_share(singular_values);
    if (rank > largest) {
      raise<ArgumentError>("decompose: a " + detail::shape_text(out, in) +
                           " matrix has no rank larger than " + std::to_string(largest) +
                           ", found rank " + std::to_string(rank));
    }
    return rank;
  }

 private:
  RankChoice(Index rank, double share) : rank_(rank), share_(share) {}

  Index rank_of_share(const Vector<double>& s) const {
    if (s.size() == 0 || s(0) == 0) return 1;
    Vector<double> held = (s / s(0)).cwiseAbs2();  // the squares of s itself could overflow
    std::partial_sum(held.begin(), held.end(), held.begin());
    return std::lower_bound(held.begin(), held.end(), share_ * held(held.size() - 1)) -
           held.begin() + 1;
  }

  Index rank_;    // 0: by the share
  double share_;  // of the energy
};

namespace detail {

/// B = U S and A = V' of the leading components. @param rank at most the number of components
template <typename Double = double>
Factors<Double> leading_factors(const ThinSvd& svd, Index rank) {
  return {.a = svd.v.leftCols(rank).transpose(),
          .b = svd.u.leftCols(rank) * svd.s.head(rank).asDiagonal()};
}

/// The same product with a larger rank: zeros are added to A and B.
template <typename Double = double>
Factors<Double> padded(Factors<Double> factors, Index rank) {
  factors.a.conservativeResizeLike(RowMajorMatrix<Double>::Zero(rank, factors.in_features()));
  factors.b.conservativeResizeLike(Matrix<Double>::Zero(factors.out_features(), rank));
  return factors;
}

/// The decomposition of s B A, of min(out, in, r) components, without the out x in matrix:
/// B = Qb Rb, A' = Qa Ra, and only Rb Ra' is decomposed, which is no larger than r x r.
template <typename Double = double>
ThinSvd product_svd(const Factors<Double>& factors) {
  const ThinQr b = thin_qr(factors.b);
  const ThinQr a = thin_qr(factors.a.transpose());
  const ThinSvd core = thin_svd(factors.scaling * b.r * a.r.transpose());
  return {b.q * core.u, core.s, a.q * core.v};
}

}  // namespace detail

/// The adapter of scaling 1 whose product B A is the closest to `delta` of its rank: B = U S and
/// A = V' of the leading singular components, as convert_to_lora of PEFT. Computed in double.
/// @param delta out x in
/// @throws ArgumentError if a fixed rank is larger than a side, or delta is empty; NonFiniteError
template <typename Derived>
Factors<typename Derived::Scalar> decompose(const Eigen::MatrixBase<Derived>& delta,
                                            const RankChoice& choice) {
  detail::require_finite("decompose", "delta", delta);
  const detail::ThinSvd svd = detail::thin_svd(delta.template cast<double>());
  const Index rank = choice.rank_for(svd.s, delta.rows(), delta.cols());
  return detail::rounded<typename Derived::Scalar>("decompose", detail::leading_factors(svd, rank));
}

/// The same of the sum of w s B A over `terms`, in O((out + in) r^2) for r the sum of their ranks:
/// the out x in matrix is never formed. The bias is the sum of w s b. Components beyond r, of a
/// larger fixed rank, are zero.
/// @throws ArgumentError if there are no terms, or a fixed rank is larger than a side; ShapeError
///         if they are not of one layer; NonFiniteError
template <RealScalar Scalar>
Factors<Scalar> decompose(std::span<const WeightedFactors<Scalar>> terms,
                          const RankChoice& choice) {
  detail::require_summable("decompose", terms);
  const Factors<double> sum = detail::stacked(terms);
  const detail::ThinSvd svd = detail::product_svd(sum);
  const Index rank = choice.rank_for(svd.s, sum.out_features(), sum.in_features());
  Factors<double> factors = detail::leading_factors(svd, std::min(rank, svd.s.size()));
  factors = detail::padded(std::move(factors), rank);
  factors.bias = detail::summed_bias(terms);
  return detail::rounded<Scalar>("decompose", factors);
}

}  // namespace loraplus
