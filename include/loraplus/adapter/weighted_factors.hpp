// SPDX-License-Identifier: MIT
//
// Several adapters of one layer as the terms of a sum.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <loraplus/adapter/factors.hpp>
#include <loraplus/adapter/thin_svd.hpp>
#include <span>

namespace loraplus::inline v0_1 {

/// An adapter, which somebody else owns, and the weight w that it has in a sum: w s (B A x + b).
template <RealScalar Scalar>
struct WeightedFactors {
  /// The adapter.
  std::reference_wrapper<const Factors<Scalar>> factors;
  double weight = 1;  ///< w, any sign

  /// q = w s, by which B A is multiplied.
  double product_weight() const { return weight * factors.get().scaling; }
};

namespace detail {

inline std::string place_text(std::string_view where, std::size_t index, std::size_t count) {
  return std::string(where) + ": adapter " + std::to_string(index + 1) + " of " +
         std::to_string(count);
}

template <RealScalar Scalar>
void require_finite_term(std::string_view place, const WeightedFactors<Scalar>& term) {
  const Factors<Scalar>& factors = term.factors;
  require_finite(place, "A", factors.a);
  require_finite(place, "B", factors.b);
  require_finite(place, "the bias of B", factors.bias);
  if (!std::isfinite(term.product_weight())) {
    raise<NonFiniteError>(std::string(place) + ": weight * scaling is not finite");
  }
}

/// Throws unless the terms can be summed; the message names the first that does not fit.
/// @throws ArgumentError if there is none, or one of rank 0; ShapeError if they are not of one
///         layer; NonFiniteError
template <RealScalar Scalar>
void require_summable(std::string_view where, std::span<const WeightedFactors<Scalar>> terms) {
  if (terms.empty()) raise<ArgumentError>(std::string(where) + ": there are no adapters");
  const Factors<Scalar>& first = terms.front().factors;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    const std::string place = place_text(where, i, terms.size());
    const Factors<Scalar>& factors = terms[i].factors.get().validate(place);
    if (factors.a.size() == 0 || factors.b.size() == 0) {
      raise<ArgumentError>(place + ": A is " + shape_text(factors.a.rows(), factors.a.cols()) +
                           " and B is " + shape_text(factors.b.rows(), factors.b.cols()) +
                           ", neither may be empty");
    }
    require_shape(place, "A", factors.a, factors.rank(), first.in_features());
    require_shape(place, "B", factors.b, first.out_features(), factors.rank());
    require_finite_term(place, terms[i]);
  }
}

/// The sum of w s b, empty if no term has a bias.
template <RealScalar Scalar>
Vector<double> summed_bias(std::span<const WeightedFactors<Scalar>> terms) {
  Vector<double> sum;
  for (const auto& term : terms) {
    const auto& bias = term.factors.get().bias;
    if (bias.size() == 0) continue;
    if (sum.size() == 0) sum.setZero(bias.size());
    sum += term.product_weight() * bias.template cast<double>();
  }
  return sum;
}

/// The terms side by side, as one adapter of scaling 1 without a bias: B = [B_1 B_2 ...],
/// A = [q_1 A_1; q_2 A_2; ...]. Its B A is their sum.
template <RealScalar Scalar>
Factors<double> stacked(std::span<const WeightedFactors<Scalar>> terms) {
  Index rank = 0;
  for (const auto& term : terms) {
    rank += term.factors.get().rank();
  }
  const Factors<Scalar>& first = terms.front().factors;
  Factors<double> sum{.a = RowMajorMatrix<double>(rank, first.in_features()),
                      .b = Matrix<double>(first.out_features(), rank)};
  Index row = 0;
  for (const auto& term : terms) {
    const Factors<Scalar>& factors = term.factors;
    sum.a.middleRows(row, factors.rank()) =
        term.product_weight() * factors.a.template cast<double>();
    sum.b.middleCols(row, factors.rank()) = factors.b.template cast<double>();
    row += factors.rank();
  }
  return sum;
}

/// Rounded to the scalar of the adapters.
/// @throws NonFiniteError if that overflows
template <RealScalar Scalar>
Factors<Scalar> rounded(std::string_view where, const Factors<double>& factors) {
  Factors<Scalar> result{.a = factors.a.cast<Scalar>(),
                         .b = factors.b.cast<Scalar>(),
                         .scaling = factors.scaling,
                         .bias = factors.bias.cast<Scalar>()};
  require_finite(where, "A of the result", result.a);
  require_finite(where, "B of the result", result.b);
  require_finite(where, "the bias of the result", result.bias);
  return result;
}

}  // namespace detail
}  // namespace loraplus
