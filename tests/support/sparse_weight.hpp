// A frozen weight as a user would write one: an Eigen sparse matrix, which knows no bias.
#pragma once

#include <Eigen/SparseCore>
#include <loraplus/frozen/frozen_weight.hpp>
#include <utility>

namespace test {

template <typename Scalar_>
struct SparseWeight {
  using Scalar = Scalar_;

  Eigen::SparseMatrix<Scalar> w;  // out x in

  Eigen::Index in_features() const { return w.cols(); }
  Eigen::Index out_features() const { return w.rows(); }
  void forward(loraplus::ConstMatrixView<Scalar> x, loraplus::MatrixView<Scalar> y) const {
    y.noalias() = w * x;
  }
  void backward(loraplus::ConstMatrixView<Scalar> dy, loraplus::MatrixView<Scalar> dx) const {
    dx.noalias() = w.transpose() * dy;
  }
};

}  // namespace test
