// SPDX-License-Identifier: MIT
//
// Initialisations that follow from the frozen weight and from data: from the inputs of the layer
// (CorDA) or from the gradient of its weight (LoRA-GA). Feed the statistics batch by batch, make
// the factors, freeze residual(w, factors). All is computed in double and rounded once, at the end.
#pragma once

#include <Eigen/Cholesky>
#include <loraplus/adapter/initialize.hpp>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

namespace loraplus::inline v0_1 {

/// How batches enter the covariance of CorDA. It changes how s B A is shared between B and A, and
/// what a batch counts beside another; of one batch the product s B A is the same.
enum class CordaNormalization {
  samples,  ///< C = E[x x'] over all samples, however they were cut into batches
  /// As PEFT: a batch is divided by the magnitude of its largest coefficient (the largest, not the
  /// one largest in magnitude); C is the sum of x x' over a batch, averaged over the batches.
  batches,
};

/// The covariance, not centred, of the inputs of a layer. Takes in^2 doubles.
class CordaStatistics {
 public:
  /// @param in the inputs of the layer
  explicit CordaStatistics(Index in, CordaNormalization normalization = CordaNormalization::samples)
      : normalization_(normalization), sum_(Matrix<double>::Zero(in, in)) {}

  Index in_features() const { return sum_.rows(); }

  /// Takes a batch in. Nothing changes if it throws.
  /// @param x in x n, a column is a sample
  /// @throws ShapeError if x does not have `in` rows
  /// @throws NonFiniteError if a coefficient is a NaN or an infinity
  /// @throws ArgumentError if batches are normalised and the largest coefficient is 0
  template <typename Derived>
  void add(const Eigen::MatrixBase<Derived>& x) {
    require_shape("CordaStatistics", "x", x, in_features(), x.cols());
    if (x.cols() == 0) return;
    Matrix<double> batch = detail::finite_in_double("CordaStatistics", "x", x);
    if (normalization_ == CordaNormalization::batches) {
      const double largest = std::abs(batch.maxCoeff());
      require_argument(largest > 0, "CordaStatistics",
                       "the largest input of a batch must not be 0 to divide by it", largest);
      batch /= largest;
    }
    sum_.selfadjointView<Eigen::Lower>().rankUpdate(batch);
    weight_ += normalization_ == CordaNormalization::batches ? 1 : static_cast<double>(x.cols());
  }

  /// C, in x in. @throws ArgumentError if there were no samples
  Matrix<double> covariance() const {
    require_argument(weight_ > 0, "CordaStatistics", "samples are needed", weight_);
    return Matrix<double>(sum_.selfadjointView<Eigen::Lower>()) / weight_;
  }

 private:
  CordaNormalization normalization_;
  Matrix<double> sum_;  // in x in, its lower triangle
  double weight_ = 0;   // what the sum is divided by
};

/// Which components of the weight CorDA trains.
enum class CordaMethod {
  ipm,  ///< instruction-previewed: the r largest, to learn what the samples are of
  kpm,  ///< knowledge-preserved: the r smallest, to keep what the samples are of
};

namespace detail {

/// C with 1 % of the mean of its diagonal added to the diagonal. PEFT doubles the 1 % until the
/// inverse is accurate; the condition number is at most 1 + 100 in, so in double it is at once.
/// @throws ArgumentError if C = 0
inline Matrix<double> damped_covariance(const CordaStatistics& statistics) {
  Matrix<double> c = statistics.covariance();
  const double mean = c.diagonal().mean();
  require_argument(mean > 0, "corda", "the mean square of the inputs must not be 0", mean);
  c.diagonal().array() += 0.01 * mean;
  return c;
}

}  // namespace detail

/// CorDA (Yang et al. 2024, arXiv:2406.05223, section 3), PEFT's "corda": of W C = U S V', C the
/// damped covariance of the inputs, r components; A = sqrt(S_r / s) V_r' C^-1, B = U_r sqrt(S_r /
/// s), so that s B A is that part of W. Freeze residual(w, factors). The signs of a component are
/// those of the SVD.
/// @param w out x in @param statistics of the inputs @param rank r, at most min(out, in)
/// @param scaling s
/// @throws ShapeError if the statistics are not of `in` features
/// @throws ArgumentError if the rank or the scaling is out of its range, if there were no samples,
///   if all were zero
/// @throws NonFiniteError if a coefficient of w is a NaN or an infinity
template <typename Derived>
Factors<typename Derived::Scalar> corda(const Eigen::MatrixBase<Derived>& w,
                                        const CordaStatistics& statistics, Index rank,
                                        double scaling, CordaMethod method = CordaMethod::ipm) {
  detail::require_rank_within("corda", rank, w.rows(), w.cols());
  detail::require_scaling("corda", scaling);
  const Matrix<double> weight = detail::finite_in_double("corda", "the weight", w);
  const Matrix<double> c = detail::damped_covariance(statistics);
  require_shape("corda", "the covariance", c, w.cols(), w.cols());
  const auto svd = detail::thin_svd(weight * c);
  auto part = detail::components(svd, method == CordaMethod::ipm ? 0 : svd.s.size() - rank, rank);
  part.v = c.llt().solve(part.v).eval();
  return detail::balanced_factors<typename Derived::Scalar>(part, scaling);
}

/// The mean gradient of a weight over batches, as LoRA-GA needs it. Takes out x in doubles.
class LoraGaStatistics {
 public:
  /// @param out, in the sides of the weight
  LoraGaStatistics(Index out, Index in) : sum_(Matrix<double>::Zero(out, in)) {}

  /// Takes the gradient dy x' of a batch in. Nothing changes if it throws.
  /// @param dy out x n @param x in x n
  /// @throws ShapeError if they do not fit the weight or each other
  /// @throws NonFiniteError if a coefficient is a NaN or an infinity
  template <typename DerivedY, typename DerivedX>
  void add(const Eigen::MatrixBase<DerivedY>& dy, const Eigen::MatrixBase<DerivedX>& x) {
    require_shape("LoraGaStatistics", "x", x, sum_.cols(), x.cols());
    require_shape("LoraGaStatistics", "dy", dy, sum_.rows(), x.cols());
    sum_.noalias() += detail::finite_in_double("LoraGaStatistics", "dy", dy) *
                      detail::finite_in_double("LoraGaStatistics", "x", x).transpose();
    ++batches_;
  }

  /// The mean over the batches, out x in. @throws ArgumentError if there were none
  Matrix<double> gradient() const {
    const auto batches = static_cast<double>(batches_);
    require_argument(batches_ > 0, "LoraGaStatistics", "batches are needed", batches);
    return sum_ / batches;
  }

 private:
  Matrix<double> sum_;  // out x in
  Index batches_ = 0;
};

/// Which of the 2 r leading components of the gradient go to which factor.
enum class LoraGaDirection {
  arb2r,  ///< A the first r, B the next r: the paper's
  a2rbr,  ///< B the first r, A the next r
  arbr,   ///< B the first, third, ..., A the second, fourth, ...
  /// A any r of them, B the other r, in whatever order the generator shuffles them. (PEFT gives
  /// both the same r; the paper's first step follows 2 r components of the gradient only if those
  /// of A and of B differ, and its own code takes them so.)
  random,
};

/// By what the factors are multiplied.
enum class LoraGaScale {
  stable,      ///< B by out^(1/4) / sqrt(gamma)
  weight_svd,  ///< B by the largest singular value of W over that of B
  gd_scale,    ///< A and B by 1 / s
  unit,        ///< nothing
};

/// How LoRA-GA makes factors of the gradient.
struct LoraGaOptions {
  /// Which components of the gradient become which factor.
  LoraGaDirection direction = LoraGaDirection::arb2r;
  /// By what the factors are multiplied.
  LoraGaScale scale = LoraGaScale::stable;
  double stable_gamma = 16;  ///< gamma, positive
};

namespace detail {

/// The components of A, then those of B, 2 r in all.
template <RandomBits... Generator>
std::vector<Index> loraga_components(LoraGaDirection direction, Index rank,
                                     Generator&... generator) {
  std::vector<Index> order(static_cast<std::size_t>(2 * rank));
  std::iota(order.begin(), order.end(), Index{0});
  switch (direction) {
    case LoraGaDirection::arb2r:
      break;
    case LoraGaDirection::a2rbr:
      std::rotate(order.begin(), order.begin() + rank, order.end());
      break;
    case LoraGaDirection::arbr:
      std::stable_partition(order.begin(), order.end(), [](Index i) { return i % 2 == 1; });
      break;
    case LoraGaDirection::random:
      if (sizeof...(Generator) == 0) {
        raise<ArgumentError>("lora_ga: the direction `random` needs a generator");
      }
      (loraplus::shuffle(std::span<Index>(order), generator), ...);
      break;
  }
  return order;
}

/// Multiplies the factors. @param largest the largest singular value of B, or 0 if B is zero
template <typename Double>
void scale_loraga(const LoraGaOptions& options, const Matrix<Double>& w, double scaling,
                  double largest, Matrix<Double>& a, Matrix<Double>& b) {
  switch (options.scale) {
    case LoraGaScale::stable:
      b *= std::sqrt(std::sqrt(static_cast<double>(w.rows())) / options.stable_gamma);
      break;
    case LoraGaScale::weight_svd:
      if (largest > 0) b *= thin_svd<Double>(w).s(0) / largest;
      break;
    case LoraGaScale::gd_scale:
      a /= scaling;
      b /= scaling;
      break;
    case LoraGaScale::unit:
      break;
  }
}

}  // namespace detail

/// LoRA-GA (Wang et al. 2024, arXiv:2407.05000, section 3), PEFT's "lora_ga": of the gradient
/// G = U S V' the 2 r leading components, A = V_A', B = U_B S_B, multiplied as the options say (the
/// singular values are PEFT's, the paper's B is U_B). Freeze residual(w, factors). PEFT
/// approximates the decomposition; this one is exact. The signs of a component are those of the
/// SVD; those of A and of B are independent.
/// @param w out x in @param gradient G, out x in @param rank r, at most min(out, in) / 2
/// @param scaling s @param generator none, or one for LoraGaDirection::random
/// @throws ShapeError if the gradient has not the shape of w
/// @throws ArgumentError if the rank, the scaling or an option is out of its range, or a generator
///   is needed
/// @throws NonFiniteError if a coefficient of w or of the gradient is a NaN or an infinity
template <typename Derived, typename DerivedGradient, RandomBits... Generator>
Factors<typename Derived::Scalar> lora_ga(const Eigen::MatrixBase<Derived>& w,
                                          const Eigen::MatrixBase<DerivedGradient>& gradient,
                                          Index rank, double scaling,
                                          const LoraGaOptions& options = {},
                                          Generator&... generator) requires(sizeof...(Generator) <=
                                                                            1) {
  require_shape("lora_ga", "the gradient", gradient, w.rows(), w.cols());
  detail::require_rank(
      "lora_ga", rank, std::min(w.rows(), w.cols()) / 2,
      "half of the smaller side of the " + detail::shape_text(w.rows(), w.cols()) + " weight");
  detail::require_scaling("lora_ga", scaling);
  require_argument(std::isfinite(options.stable_gamma) && options.stable_gamma > 0, "lora_ga",
                   "stable_gamma must be positive and finite", options.stable_gamma);
  const Matrix<double> weight = detail::finite_in_double("lora_ga", "the weight", w);
  const auto svd = detail::thin_svd(detail::finite_in_double("lora_ga", "the gradient", gradient));
  const auto order = detail::loraga_components(options.direction, rank, generator...);
  const std::vector<Index> of_a(order.begin(), order.begin() + rank);
  const std::vector<Index> of_b(order.begin() + rank, order.end());
  const Vector<double> s_b = svd.s(of_b);
  Matrix<double> a = svd.v(Eigen::seqN(0, w.cols()), of_a).eval().transpose();
  Matrix<double> b = svd.u(Eigen::seqN(0, w.rows()), of_b);
  b *= s_b.asDiagonal();
  detail::scale_loraga(options, weight, scaling, s_b.maxCoeff(), a, b);
  return detail::rounded_factors<typename Derived::Scalar>(a, b, scaling);
}

}  // namespace loraplus
