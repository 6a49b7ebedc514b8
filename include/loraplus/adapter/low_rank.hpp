// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/lora_options.hpp>
#include <loraplus/core/parameter.hpp>
#include <loraplus/core/random.hpp>
#include <loraplus/kernels/low_rank.hpp>
#include <utility>

namespace loraplus {

/// The trainable part of an adapter: s B A with its gradients (Hu et al., "LoRA", equation 3).
/// It knows no frozen weight.
template <RealScalar Scalar_>
class LowRank {
 public:
  using Scalar = Scalar_;

  /// One factor is drawn from the generator in storage order (A row by row, B column by column),
  /// the other is zero.
  /// @throws ArgumentError if an option is out of its range
  template <RandomBits Generator>
  LowRank(Index out, Index in, const LoraOptions& options, Generator& generator)
      : scaling_(static_cast<Scalar>(lora_scaling(validate(options)))),
        a_(RowMajorMatrix<Scalar>::Zero(options.rank, in)),
        b_(Matrix<Scalar>::Zero(out, options.rank)),
        a_gradient_(a_),
        b_gradient_(b_) {
    initialize(options, generator);
  }

  Index rank() const { return a_.rows(); }
  Index in_features() const { return a_.cols(); }
  Index out_features() const { return b_.rows(); }
  Scalar scaling() const { return scaling_; }

  /// The down-projection, r x in.
  const RowMajorMatrix<Scalar>& a() const { return a_; }
  /// The up-projection, out x r.
  const Matrix<Scalar>& b() const { return b_; }
  const RowMajorMatrix<Scalar>& a_gradient() const { return a_gradient_; }
  const Matrix<Scalar>& b_gradient() const { return b_gradient_; }

  /// Replaces both factors, as by trained ones from elsewhere. Nothing changes if a shape is wrong.
  /// @param a r x in, @param b out x r
  /// @throws ShapeError
  template <typename DerivedA, typename DerivedB>
  void set_factors(const Eigen::MatrixBase<DerivedA>& a, const Eigen::MatrixBase<DerivedB>& b) {
    require_shape("set_factors", "A", a, rank(), in_features());
    require_shape("set_factors", "B", b, out_features(), rank());
    RowMajorMatrix<Scalar> new_a = a;  // both first: the arguments may be expressions of a(), b()
    Matrix<Scalar> new_b = b;
    a_ = std::move(new_a);
    b_ = std::move(new_b);
  }

  /// h = s A x. @param x in x n, @param h r x n
  void project(ConstMatrixView<Scalar> x, MatrixView<Scalar> h) const {
    kernels::project<Scalar>(scaling_, a_.transpose(), x, h);
  }

  /// z = s B' dy, dB += dy h', dA += z x'. @param dy out x n, @param h, z r x n, @param x in x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, ConstMatrixView<Scalar> h,
                MatrixView<Scalar> z) {
    auto a_gradient = a_gradient_.transpose();  // in x r, column-major
    kernels::project_and_accumulate<Scalar>(scaling_, b_, dy, h, z, b_gradient_);
    kernels::accumulate<Scalar>(x, z, a_gradient);
  }

  /// W += s B A. @param w out x in
  template <typename W>
  void add_to(W& w) const {
    w.noalias() += scaling_ * b_ * a_;
  }

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    visit(Parameter<Scalar>("lora_A", Role::lora_a, a_, a_gradient_, scaling_));
    visit(Parameter<Scalar>("lora_B", Role::lora_b, b_, b_gradient_, scaling_));
  }

 private:
  template <RandomBits Generator>
  void initialize(const LoraOptions& options, Generator& generator) {
    const double scale = options.init_scale;
    const auto rank = static_cast<double>(options.rank);
    switch (options.initialization) {
      case Initialization::a_uniform: {
        const double bound = scale / std::sqrt(static_cast<double>(in_features()));
        return loraplus::fill_uniform(a_, generator, -bound, bound);
      }
      case Initialization::a_gaussian:
        return loraplus::fill_normal(a_, generator, scale / rank);
      case Initialization::b_uniform: {
        const double bound = scale / std::sqrt(rank);
        return loraplus::fill_uniform(b_, generator, -bound, bound);
      }
    }
  }

  Scalar scaling_;                     // s
  RowMajorMatrix<Scalar> a_;           // r x in
  Matrix<Scalar> b_;                   // out x r
  RowMajorMatrix<Scalar> a_gradient_;  // r x in
  Matrix<Scalar> b_gradient_;          // out x r
};

}  // namespace loraplus
