// SPDX-License-Identifier: MIT
//
// EVA (Paischer et al. 2024, arXiv:2410.07170): A starts as the directions in which the inputs of a
// layer vary most, and layers whose inputs need more directions get a higher rank. Feed the
// statistics of each layer batch by batch, take their principal components, redistribute the ranks,
// make the factors.
#pragma once

#include <Eigen/Eigenvalues>
#include <loraplus/adapter/initialize.hpp>
#include <numeric>
#include <span>
#include <vector>

namespace loraplus::inline v0_1 {

/// Mean and scatter of the inputs of a layer, exact however the samples are cut into batches
/// (Chan, Golub and LeVeque 1983). Takes in^2 doubles.
class EvaStatistics {
 public:
  /// @param in the inputs of the layer
  explicit EvaStatistics(Index in)
      : mean_(Vector<double>::Zero(in)), scatter_(Matrix<double>::Zero(in, in)) {}

  Index in_features() const { return mean_.size(); }
  /// The samples taken in.
  Index samples() const { return samples_; }

  /// Takes a batch in. Nothing changes if it throws.
  /// @param x in x n, a column is a sample
  /// @throws ShapeError if x does not have `in` rows
  /// @throws NonFiniteError if a coefficient is a NaN or an infinity
  template <typename Derived>
  void add(const Eigen::MatrixBase<Derived>& x) {
    require_shape("EvaStatistics", "x", x, in_features(), x.cols());
    if (x.cols() == 0) return;
    Matrix<double> batch = detail::finite_in_double("EvaStatistics", "x", x);
    const Vector<double> batch_mean = batch.rowwise().mean();
    batch.colwise() -= batch_mean;
    const Vector<double> shift = batch_mean - mean_;
    const auto before = static_cast<double>(samples_);
    const auto added = static_cast<double>(batch.cols());
    const double share = added / (before + added);
    auto scatter = scatter_.selfadjointView<Eigen::Lower>();
    scatter.rankUpdate(batch);
    scatter.rankUpdate(shift, before * share);
    mean_ += share * shift;
    samples_ += batch.cols();
  }

  /// The sum of (x - mean) (x - mean)', in x in.
  Matrix<double> scatter() const { return scatter_.selfadjointView<Eigen::Lower>(); }

 private:
  Vector<double> mean_;     // in
  Matrix<double> scatter_;  // in x in, its lower triangle
  Index samples_ = 0;
};

/// The directions in which inputs vary, that of the largest variance first.
struct PrincipalComponents {
  RowMajorMatrix<double> directions;        ///< k x in, orthonormal rows
  Vector<double> singular_values;           ///< k, of the centred inputs
  Vector<double> explained_variance_ratio;  ///< k, the share of each in the whole variance
};

/// The principal components of the inputs, centred as PEFT's incremental PCA centres them. That one
/// forgets what lies outside of its components from batch to batch; this is the exact result of all
/// samples, through the eigenvectors of the scatter (of the order of in^3 operations). In each
/// direction the coefficient largest in magnitude is positive, as in PEFT.
/// @param largest so many components are taken, or all: min(in, samples - 1)
/// @throws ArgumentError if `largest` is not positive or there are less than two samples
/// @throws NonFiniteError if the squares of the inputs overflow
template <typename Double = double>  // as in thin_svd.hpp
PrincipalComponents principal_components(const EvaStatistics& statistics, Index largest) {
  require_argument(statistics.samples() >= 2, "principal_components",
                   "at least 2 samples are needed", static_cast<double>(statistics.samples()));
  require_argument(largest >= 1, "principal_components", "at least 1 component must be taken",
                   static_cast<double>(largest));
  const Matrix<Double> scatter =
      detail::finite_in_double("principal_components", "the scatter", statistics.scatter());
  const Index count = std::min({largest, statistics.in_features(), statistics.samples() - 1});
  const Eigen::SelfAdjointEigenSolver<Matrix<Double>> solver(scatter);
  const Vector<Double> variance = solver.eigenvalues().reverse().head(count).cwiseMax(0);
  PrincipalComponents components{
      solver.eigenvectors().rowwise().reverse().leftCols(count).transpose(), variance.cwiseSqrt(),
      variance / std::max(scatter.trace(), std::numeric_limits<double>::min())};
  for (Index i = 0; i < count; ++i) {
    Index furthest = 0;
    components.directions.row(i).cwiseAbs().maxCoeff(&furthest);
    if (components.directions(i, furthest) < 0) components.directions.row(i) *= -1;
  }
  return components;
}

/// What EVA may be told besides the rank.
struct EvaOptions {
  bool whiten = false;  ///< divides a row of A by the square root of its singular value
};

/// EVA (Paischer et al. 2024, section 3), PEFT's "eva": the rows of A are the r first components of
/// the inputs, B = 0. The weight stays as it is.
/// @param rank r, at most the number of components @param scaling s
/// @return A r x in, B out x r
/// @throws ArgumentError if the rank or the scaling is out of its range, or a singular value to
///   whiten by is 0
template <RealScalar Scalar>
Factors<Scalar> eva(const PrincipalComponents& components, Index out, Index rank, double scaling,
                    const EvaOptions& options = {}) {
  detail::require_rank("eva", rank, components.directions.rows(), "the number of components");
  detail::require_scaling("eva", scaling);
  RowMajorMatrix<double> a = components.directions.topRows(rank);
  if (options.whiten) {
    const double smallest = components.singular_values(rank - 1);
    require_argument(smallest > 0, "eva", "a singular value to whiten by must be positive",
                     smallest);
    a.array().colwise() /= components.singular_values.head(rank).array().sqrt();
  }
  return detail::rounded_factors<Scalar>(a, Matrix<double>::Zero(out, rank), scaling);
}

/// The same, for a layer whose rank is fixed. @param rank r, at most min(in, samples - 1)
/// @throws ArgumentError as principal_components() and the eva() of components
template <RealScalar Scalar>
Factors<Scalar> eva(const EvaStatistics& statistics, Index out, Index rank, double scaling,
                    const EvaOptions& options = {}) {
  return eva<Scalar>(principal_components(statistics, rank), out, rank, scaling, options);
}

/// The highest rank that redistribution may give a layer: r rho to the nearest integer, to the even
/// one of two, but no more than the layer has inputs.
/// @throws ArgumentError if the rank is not positive or rho is less than 1
inline Index largest_eva_rank(Index rank, double rho, Index in) {
  require_argument(rank >= 1, "largest_eva_rank", "rank must be at least 1",
                   static_cast<double>(rank));
  require_argument(std::isfinite(rho) && rho >= 1, "largest_eva_rank",
                   "rho must be at least 1 and finite", rho);
  const double product = static_cast<double>(rank) * rho;
  return product < static_cast<double>(in) ? static_cast<Index>(std::nearbyint(product)) : in;
}

/// New ranks for layers, with the sum of the old ones or less if there are not so many components:
/// the components of all layers compete by the share of their layer's variance that they explain
/// (Paischer et al. 2024, section 3). Of equal ones the earlier layer's goes first. A layer that
/// gets rank 0 is to have no adapter.
/// @param layers with largest_eva_rank() components each (further ones are ignored)
/// @param ranks the ranks before, one a layer @param rho PEFT's default is 2; 1 changes nothing
/// @throws ArgumentError if there are not as many ranks as layers, or as largest_eva_rank()
inline std::vector<Index> redistribute_ranks(std::span<const PrincipalComponents> layers,
                                             std::span<const Index> ranks, double rho) {
  require_argument(layers.size() == ranks.size(), "redistribute_ranks",
                   "there must be " + std::to_string(layers.size()) + " ranks, one a layer",
                   static_cast<double>(ranks.size()));
  struct Candidate {
    double ratio;
    std::size_t layer;
  };
  std::vector<Candidate> candidates;
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const Vector<double>& ratios = layers[layer].explained_variance_ratio;
    const Index limit = largest_eva_rank(ranks[layer], rho, ratios.size());
    for (Index i = 0; i < limit; ++i) {
      candidates.push_back({ratios(i), layer});
    }
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.ratio > b.ratio; });
  const Index budget = std::accumulate(ranks.begin(), ranks.end(), Index{0});
  candidates.resize(std::min(candidates.size(), static_cast<std::size_t>(budget)));
  std::vector<Index> redistributed(layers.size(), 0);
  for (const Candidate& chosen : candidates) {
    ++redistributed[chosen.layer];
  }
  return redistributed;
}

/// alpha r' / r: with it s = alpha / r stays what it was when the rank r becomes r', as PEFT's
/// adjust_scaling_factors has it.
inline double redistributed_alpha(double alpha, Index rank, Index new_rank) {
  return alpha * static_cast<double>(new_rank) / static_cast<double>(rank);
}

}  // namespace loraplus
