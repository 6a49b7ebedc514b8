// SPDX-License-Identifier: MIT
//
// What an update rule sees that needs both factors of an adapter at once, and the r x r systems
// that such rules solve.
#pragma once

#include <Eigen/Cholesky>
#include <algorithm>
#include <loraplus/core/error.hpp>
#include <loraplus/core/parameter.hpp>
#include <loraplus/optim/update_rule.hpp>

namespace loraplus::inline v0_1 {

/// The factors of an adapter s B A with their gradients. B, column-major, is seen as its transpose:
/// all four are r long contiguous rows.
template <RealScalar Scalar>
struct FactorPair {
  /// r rows, one after the other.
  using Rows = Eigen::Map<RowMajorMatrix<Scalar>>;
  /// The same to read.
  using ConstRows = Eigen::Map<const RowMajorMatrix<Scalar>>;

  ConstRows a;                 ///< r x in
  ConstRows b_transposed;      ///< r x out
  Rows a_gradient;             ///< r x in
  Rows b_gradient_transposed;  ///< r x out
  Scalar scaling;              ///< s
};

/// Solves with the Gram matrix of a factor, G = F F' + regularization I, in double. Made once for
/// the largest rank; allocates nothing afterwards.
class GramSolver {
 public:
  /// @param largest_rank the largest r of a factor
  explicit GramSolver(Index largest_rank)
      : gram_(largest_rank, largest_rank), columns_(largest_rank, block) {}

  /// @param f r x n
  /// @return whether G is finite and positive definite; there is nothing to solve with if not
  template <typename Derived>
  bool factorize(const Eigen::MatrixBase<Derived>& f, double regularization) {
    rank_ = f.rows();
    auto gram = gram_.topLeftCorner(rank_, rank_);
    for (Index i = 0; i < rank_; ++i) {
      for (Index j = 0; j <= i; ++j) {
        gram(i, j) = f.row(i).template cast<double>().dot(f.row(j).template cast<double>());
      }
      gram(i, i) += regularization;
    }
    Eigen::Ref<Matrix<double>> in_place = gram;
    const Eigen::LLT<Eigen::Ref<Matrix<double>>> cholesky(in_place);
    return cholesky.info() == Eigen::Success && gram.diagonal().allFinite();
  }

  /// x = factor G^-1 x. @param x r x n
  template <typename Derived>
  void solve(double factor, Eigen::MatrixBase<Derived>& x) {
    using Scalar = typename Derived::Scalar;
    const auto lower = gram_.topLeftCorner(rank_, rank_).triangularView<Eigen::Lower>();
    for (Index first = 0; first < x.cols(); first += block) {
      auto part = x.middleCols(first, std::min(block, x.cols() - first));
      auto columns = columns_.topLeftCorner(rank_, part.cols());
      columns = factor * part.template cast<double>();
      lower.solveInPlace(columns);
      lower.adjoint().solveInPlace(columns);
      part = columns.template cast<Scalar>();
    }
  }

 private:
  static constexpr Index block = 64;

  Matrix<double> gram_;  // largest rank x largest rank; its lower triangle is the Cholesky factor
  Matrix<double> columns_;  // largest rank x block
  Index rank_ = 0;          // of the factor last seen
};

/// An update rule that first changes the gradients of the two factors of each adapter, knowing
/// both. `precondition` returns false if it cannot, because a factor is not finite.
template <typename Rule>
concept PairRule = UpdateRule<Rule> &&
    requires(const Rule& rule, FactorPair<double>& pair, GramSolver& solver) {
  { rule.precondition(pair, solver) } -> std::same_as<bool>;
};

/// Which factor of an adapter a parameter is.
enum class FactorKind {
  none,  ///< another parameter
  a,     ///< the down-projection
  b,     ///< the up-projection
};

namespace detail {

/// Whether the rule leaves such a factor as it is: its static freezes(FactorKind), if it has one.
template <typename Rule>
constexpr bool freezes(FactorKind factor) {
  if constexpr (requires { Rule::freezes(factor); }) {
    return Rule::freezes(factor);
  }
  return false;
}

/// Whether the rule sees the pairs of embeddings, too: its static pairs_embeddings, if it has one.
template <typename Rule>
constexpr bool pairs_embeddings() {
  if constexpr (requires { Rule::pairs_embeddings; }) {
    return Rule::pairs_embeddings;
  }
  return false;
}

/// Tells the factors that a rule sees from a model's other parameters, one after the other in
/// visiting order: those of an embedding have one role, and are A and B by turns.
template <typename Rule>
class FactorOrder {
 public:
  FactorKind next(Role role) {
    if (role == Role::lora_a) return FactorKind::a;
    if (role == Role::lora_b) return FactorKind::b;
    if (role != Role::embedding || !pairs_embeddings<Rule>()) return FactorKind::none;
    is_embedding_b_ = !is_embedding_b_;
    return is_embedding_b_ ? FactorKind::a : FactorKind::b;
  }

 private:
  bool is_embedding_b_ = false;  // the next one
};

}  // namespace detail

}  // namespace loraplus
