// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/core/error.hpp>
#include <loraplus/core/parameter.hpp>
#include <loraplus/frozen/frozen_weight.hpp>
#include <loraplus/kernels/affine.hpp>
#include <loraplus/kernels/low_rank.hpp>
#include <utility>

namespace loraplus::inline v0_1 {

/// A frozen weight as a layer of a network, y = W x + b, whose bias may be trained.
///
/// The frozen weight goes on adding its own bias b0; the layer adds b - b0, which is exactly zero
/// before training, so any frozen weight will do and an untrained layer equals it.
template <FrozenWeight Weight>
class FrozenLinear {
 public:
  using Scalar = typename Weight::Scalar;
  struct Cache {};

  /// @param train_bias whether b is a parameter; a weight that has no bias has nothing to train
  /// @throws ArgumentError if the bias is to be trained and the weight does not tell it
  explicit FrozenLinear(Weight weight, bool train_bias = false) : weight_(std::move(weight)) {
    if (!train_bias) return;
    if constexpr (requires { weight_.bias(); }) {
      bias_ = weight_.bias();
      bias_gradient_ = Vector<Scalar>::Zero(bias_.size());
    } else {
      raise<ArgumentError>("FrozenLinear: the bias can only be trained if the weight has bias()");
    }
  }

  Index in_features() const { return weight_.in_features(); }
  Index out_features() const { return weight_.out_features(); }
  const Weight& weight() const { return weight_; }

  /// The bias that is trained, or else that of the weight; empty if there is none.
  ConstVectorView<Scalar> bias() const {
    if (trains_bias()) return {bias_.data(), bias_.size()};
    if constexpr (requires { weight_.bias(); }) return weight_.bias();
    return {nullptr, 0};
  }

  /// Whether b is a parameter.
  bool trains_bias() const { return bias_.size() != 0; }

  Cache make_cache(Index /*largest_batch*/) const { return {}; }

  /// y = W x + b. @param x in x n, @param y out x n
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& /*cache*/) const {
    require_shape("FrozenLinear::forward", "x", x, in_features(), x.cols());
    require_shape("FrozenLinear::forward", "y", y, out_features(), x.cols());
    require_distinct("FrozenLinear::forward", x, y);
    weight_.forward(x, y);
    add_trained_bias(y);
  }

  /// y = W x + b0 + F h: with the bias of the weight, not the trained one. @param x in x n,
  /// @param y out x n, @param f out x r, @param h r x n
  void product(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, ConstMatrixView<Scalar> f,
               ConstMatrixView<Scalar> h) const {
    if constexpr (AddsLowRank<Weight>) {
      weight_.forward(x, y, f, h);
    } else {
      weight_.forward(x, y);
      kernels::expand<Scalar>(f, h, y);
    }
  }

  /// dx = W' dy + F z. @param dy out x n, @param dx in x n, @param f in x r, @param z r x n
  void backward_input(ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx, ConstMatrixView<Scalar> f,
                      ConstMatrixView<Scalar> z) const {
    if constexpr (AddsLowRank<Weight>) {
      weight_.backward(dy, dx, f, z);
    } else {
      weight_.backward(dy, dx);
      kernels::expand<Scalar>(f, z, dx);
    }
  }

  /// y += b - b0, if the bias is trained. @param y out x n, made by the weight with its own b0
  void add_trained_bias(MatrixView<Scalar> y) const {
    if constexpr (requires { weight_.bias(); }) {
      if (!trains_bias()) return;
      for (Index sample = 0; sample < y.cols(); ++sample) {
        y.col(sample) += bias_ - weight_.bias();
      }
    }
  }

  /// db += the sum of dy over the samples. @param x in x n, @param dy out x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, Cache& /*cache*/) {
    require_shape("FrozenLinear::backward", "x", x, in_features(), x.cols());
    require_shape("FrozenLinear::backward", "dy", dy, out_features(), x.cols());
    if (trains_bias()) kernels::accumulate_bias_gradient(dy, bias_gradient_);
  }

  /// The same, and dx = W' dy. @param dx in x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx,
                Cache& cache) {
    require_shape("FrozenLinear::backward", "dx", dx, in_features(), x.cols());
    require_distinct("FrozenLinear::backward", dy, dx);
    backward(x, dy, cache);
    weight_.backward(dy, dx);
  }

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    if (trains_bias()) visit(Parameter<Scalar>("bias", Role::bias, bias_, bias_gradient_));
  }

 private:
  Weight weight_;
  Vector<Scalar> bias_;           // out, or empty: not trained
  Vector<Scalar> bias_gradient_;  // the same
};

template <FrozenWeight Weight>
FrozenLinear(Weight) -> FrozenLinear<Weight>;

}  // namespace loraplus
