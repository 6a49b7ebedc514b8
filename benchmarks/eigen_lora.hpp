// A LoRA layer in plain Eigen expressions, in the orders of other systems, to be measured beside
// ours. All memory is made before, nothing is checked, and any optimizer of the library steps it.
#pragma once

#include <loraplus/loraplus.hpp>

namespace bench {

using loraplus::Index;
using loraplus::Matrix;

/// The order of the products of a step.
enum class Order {
  plain,     ///< the eight products of the formulas; h is kept, z is computed once
  unsloth,   ///< as Unsloth and NeoML: h and B' dy are each computed twice
  nntrainer  ///< as nntrainer: s on the output side, W + s B A formed for dx in every backward pass
};

class EigenLora {
 public:
  using Scalar = float;

  EigenLora(Matrix<float> w, Index rank, Index largest_batch, Order order)
      : order_(order),
        w_(std::move(w)),
        a_(loraplus::RowMajorMatrix<float>::Random(rank, w_.cols())),
        grad_a_(loraplus::RowMajorMatrix<float>::Zero(rank, w_.cols())),
        b_(Matrix<float>::Random(w_.rows(), rank)),
        grad_b_(Matrix<float>::Zero(w_.rows(), rank)),
        h_(rank, largest_batch),
        z_(rank, largest_batch),
        merged_(order == Order::nntrainer ? w_ : Matrix<float>()),
        out_(order == Order::nntrainer ? w_.rows() : 0, largest_batch) {}

  /// y = W x + s B A x. @param x in x n, @param y out x n
  void forward(const Matrix<float>& x, Matrix<float>& y) {
    y.noalias() = w_ * x;
    if (order_ == Order::nntrainer) {
      h_.noalias() = a_ * x;
      out_.noalias() = b_ * h_;
      y += s_ * out_;
    } else {
      h_.noalias() = s_ * a_ * x;
      y.noalias() += b_ * h_;
    }
  }

  /// dA, dB and dx. @param x, dx in x n, @param dy out x n
  void backward(const Matrix<float>& x, const Matrix<float>& dy, Matrix<float>& dx) {
    if (order_ == Order::nntrainer) {
      out_ = s_ * dy;
      grad_b_.noalias() += out_ * h_.transpose();
      z_.noalias() = b_.transpose() * out_;
      grad_a_.noalias() += z_ * x.transpose();
      merged_ = w_;
      merged_.noalias() += s_ * b_ * a_;
      dx.noalias() = merged_.transpose() * dy;
      return;
    }
    if (order_ == Order::unsloth) h_.noalias() = s_ * a_ * x;
    grad_b_.noalias() += dy * h_.transpose();
    z_.noalias() = s_ * b_.transpose() * dy;
    grad_a_.noalias() += z_ * x.transpose();
    if (order_ == Order::unsloth) z_.noalias() = s_ * b_.transpose() * dy;
    dx.noalias() = w_.transpose() * dy;
    dx.noalias() += a_.transpose() * z_;
  }

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    visit(loraplus::Parameter<float>("lora_A", loraplus::Role::lora_a, a_, grad_a_));
    visit(loraplus::Parameter<float>("lora_B", loraplus::Role::lora_b, b_, grad_b_));
  }

 private:
  Order order_;
  float s_ = 1;
  Matrix<float> w_;                             // out x in
  loraplus::RowMajorMatrix<float> a_, grad_a_;  // r x in
  Matrix<float> b_, grad_b_;                    // out x r
  Matrix<float> h_, z_;                         // r x n
  Matrix<float> merged_;                        // out x in, for nntrainer's order
  Matrix<float> out_;                           // out x n, the same
};

}  // namespace bench
