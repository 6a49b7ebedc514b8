#include <loraplus/frozen/row_norms.hpp>
#include <loraplus/frozen/weight_view.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"
#include "support/sparse_weight.hpp"

using loraplus::Index;
using loraplus::Matrix;
using loraplus::Vector;

namespace {

/// A weight with a bias that it does not tell.
struct Secretive {
  using Scalar = double;
  Matrix<double> w;
  Vector<double> b;
  Index in_features() const { return w.cols(); }
  Index out_features() const { return w.rows(); }
  void forward(loraplus::ConstMatrixView<double> x, loraplus::MatrixView<double> y) const {
    y = (w * x).colwise() + b;
  }
  void backward(loraplus::ConstMatrixView<double> dy, loraplus::MatrixView<double> dx) const {
    dx = w.transpose() * dy;
  }
};

}  // namespace

TEST_CASE("bias and norms are found of weights that can be read, and of those that cannot") {
  const auto b = test::random_vector<double>(5, 2);
  for (const Index in : {1, 63, 64, 65, 130}) {
    const auto w = test::random_matrix<double>(5, in, 1);
    const Vector<double> norms = w.rowwise().squaredNorm();
    const Secretive secretive{w, b};
    CHECK(test::relative_distance(loraplus::bias_of(secretive), b) < 1e-15);
    CHECK(test::relative_distance(loraplus::squared_row_norms(secretive), norms) < 1e-13);
    const test::SparseWeight<double> sparse{w.sparseView()};
    CHECK(loraplus::bias_of(sparse).isZero(0));
    CHECK(test::relative_distance(loraplus::squared_row_norms(sparse), norms) < 1e-14);
    const loraplus::WeightView view{w, b};
    CHECK(loraplus::bias_of(view) == b);
    CHECK(test::relative_distance(loraplus::squared_row_norms(view), norms) < 1e-15);
    CHECK(loraplus::bias_of(loraplus::WeightView{w}).isZero(0));
  }
}
