// SPDX-License-Identifier: MIT
//
// Several adapters of one layer combined into one, as add_weighted_adapter of PEFT.
#pragma once

#include <loraplus/adapter/combine_options.hpp>
#include <loraplus/adapter/decompose.hpp>
#include <loraplus/core/random.hpp>
#include <utility>

namespace loraplus::inline v0_1 {

namespace detail {

/// Numbers in [0, 1), one a call; empty if there is no generator.
using UniformSource = std::function<double()>;

inline Coefficients sum_of_pruned(std::vector<Coefficients> tensors,
                                  const std::vector<double>& weights, const CombineOptions& options,
                                  const UniformSource& uniform) {
  const CombinationParts parts = parts_of(options.type);
  for (Coefficients& tensor : tensors) {
    if (parts.pruning == Pruning::by_magnitude) keep_largest(tensor, options.density);
    if (parts.pruning == Pruning::at_random) keep_at_random(tensor, options.density, uniform);
  }
  return parts.elects_sign ? elected_sum(tensors, weights, options.majority_sign)
                           : weighted_sum(tensors, weights);
}

/// The coefficients in storage order.
template <typename Derived>
Coefficients coefficients_of(const Eigen::PlainObjectBase<Derived>& matrix) {
  using Array = Eigen::Array<typename Derived::Scalar, Eigen::Dynamic, 1>;
  return Eigen::Map<const Array>(matrix.data(), matrix.size()).template cast<double>();
}

/// A and B summed apart. The sign of q is on the side of A alone, lest it cancel.
template <RealScalar Scalar>
Factors<double> sum_of_factors(std::span<const WeightedFactors<Scalar>> terms,
                               const CombineOptions& options, const UniformSource& uniform) {
  std::vector<Coefficients> a_tensors, b_tensors;
  std::vector<double> a_weights, b_weights;
  for (const auto& term : terms) {
    a_tensors.push_back(coefficients_of(term.factors.get().a));
    b_tensors.push_back(coefficients_of(term.factors.get().b));
    const double q = term.product_weight();
    b_weights.push_back(std::sqrt(std::abs(q)));
    a_weights.push_back(std::copysign(b_weights.back(), q));
  }
  const Coefficients a = sum_of_pruned(std::move(a_tensors), a_weights, options, uniform);
  const Coefficients b = sum_of_pruned(std::move(b_tensors), b_weights, options, uniform);
  const Factors<Scalar>& first = terms.front().factors;
  using A = Eigen::Map<const RowMajorMatrix<double>>;
  using B = Eigen::Map<const Matrix<double>>;
  return {.a = A(a.data(), first.rank(), first.in_features()),
          .b = B(b.data(), first.out_features(), first.rank())};
}

/// The products s B A summed with the weights w, which do not hold s once more; out x in.
template <RealScalar Scalar>
Matrix<double> sum_of_products(std::span<const WeightedFactors<Scalar>> terms,
                               const CombineOptions& options, const UniformSource& uniform) {
  std::vector<Coefficients> products;
  std::vector<double> weights;
  for (const auto& term : terms) {
    const Factors<Scalar>& factors = term.factors;
    const Matrix<double> product =
        factors.scaling * factors.b.template cast<double>() * factors.a.template cast<double>();
    products.push_back(coefficients_of(product));
    weights.push_back(term.weight);
  }
  const Coefficients sum = sum_of_pruned(std::move(products), weights, options, uniform);
  const Factors<Scalar>& first = terms.front().factors;
  return Eigen::Map<const Matrix<double>>(sum.data(), first.out_features(), first.in_features());
}

/// The quantile of the values, interpolated between the two next to it. @param share in [0, 1]
inline double quantile(std::vector<double> values, double share) {
  const double position = share * static_cast<double>(values.size() - 1);
  const auto below = values.begin() + static_cast<std::ptrdiff_t>(position);
  std::nth_element(values.begin(), below, values.end());
  if (below + 1 == values.end()) return *below;
  const double above = *std::min_element(below + 1, values.end());
  return std::lerp(*below, above, position - std::floor(position));
}

inline void clamp_to_quantile(Factors<double>& factors, double share) {
  std::vector<double> values;
  for (const Coefficients& entries : {coefficients_of(factors.a), coefficients_of(factors.b)}) {
    values.insert(values.end(), entries.begin(), entries.end());
  }
  const std::size_t count = values.size();
  for (std::size_t i = 0; i < count; ++i) {
    values.push_back(-values[i]);
  }
  const double bound = quantile(std::move(values), share);
  factors.a = factors.a.cwiseMax(-bound).cwiseMin(bound);
  factors.b = factors.b.cwiseMax(-bound).cwiseMin(bound);
}

template <RealScalar Scalar>
Index largest_rank(std::span<const WeightedFactors<Scalar>> terms) {
  Index rank = 0;
  for (const auto& term : terms) {
    rank = std::max(rank, term.factors.get().rank());
  }
  return rank;
}

template <RealScalar Scalar>
Factors<double> decomposed_sum(std::span<const WeightedFactors<Scalar>> terms,
                               const CombineOptions& options, const UniformSource& uniform) {
  const ThinSvd svd = options.type == Combination::svd
                          ? product_svd(stacked(terms))
                          : thin_svd(sum_of_products(terms, options, uniform));
  const Index rank = options.svd_rank > 0 ? options.svd_rank : largest_rank(terms);
  Factors<double> factors = leading_factors(svd, std::min(rank, svd.s.size()));
  if (options.svd_clamp) clamp_to_quantile(factors, *options.svd_clamp);
  return padded(std::move(factors), rank);
}

template <RealScalar Scalar>
void require_equal_ranks(std::span<const WeightedFactors<Scalar>> terms, Combination type) {
  const Index rank = terms.front().factors.get().rank();
  for (std::size_t i = 1; i < terms.size(); ++i) {
    const Index found = terms[i].factors.get().rank();
    if (found == rank) continue;
    raise<ArgumentError>(
        place_text("combine", i, terms.size()) + " has rank " + std::to_string(found) +
        ", the first has " + std::to_string(rank) + "; " + std::string(to_string(type)) +
        " works entry by entry and needs equal ranks, cat and the svd types do not");
  }
}

template <RealScalar Scalar>
Factors<double> sum_as_chosen(std::span<const WeightedFactors<Scalar>> terms,
                              const CombineOptions& options, const UniformSource& uniform) {
  if (terms.size() == 1) return sum_of_factors(terms, {.type = Combination::linear}, uniform);
  if (options.type == Combination::cat) return stacked(terms);
  if (parts_of(options.type).of_products) return decomposed_sum(terms, options, uniform);
  require_equal_ranks(terms, options.type);
  return sum_of_factors(terms, options, uniform);
}

template <RealScalar Scalar>
Factors<Scalar> combine(std::span<const WeightedFactors<Scalar>> terms,
                        const CombineOptions& options, const UniformSource& uniform) {
  require_summable("combine", terms);
  if (parts_of(validate(options).type).pruning == Pruning::at_random && !uniform) {
    raise<ArgumentError>("combine: " + std::string(to_string(options.type)) +
                         " drops entries at random: pass a generator");
  }
  Factors<double> sum = sum_as_chosen(terms, options, uniform);
  sum.bias = summed_bias(terms);
  return rounded<Scalar>("combine", sum);
}

}  // namespace detail

/// The adapters as one, of scaling 1, computed in double. Whatever the type, its bias is the sum of
/// w s b, and a single adapter is only reweighted: w s B A, nothing pruned or decomposed (decompose
/// does that). The adapters themselves are not changed.
/// @throws ArgumentError if there are no adapters, an option is outside its range, the type needs
///         equal ranks or draws at random; ShapeError if the adapters are not of one layer;
///         NonFiniteError. Where one adapter is at fault the message says which.
template <RealScalar Scalar>
Factors<Scalar> combine(std::span<const WeightedFactors<Scalar>> terms,
                        const CombineOptions& options = {}) {
  return detail::combine(terms, options, {});
}

/// The same for the dare types too, which draw one number for each entry in storage order: A of
/// each adapter, then B of each; or the products s B A, column by column. Other types draw nothing.
template <RealScalar Scalar, RandomBits Generator>
Factors<Scalar> combine(std::span<const WeightedFactors<Scalar>> terms,
                        const CombineOptions& options, Generator& generator) {
  return detail::combine(terms, options, [&] { return loraplus::uniform(generator); });
}

}  // namespace loraplus
