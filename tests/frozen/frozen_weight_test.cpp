#include <loraplus/frozen/frozen_weight.hpp>
#include <loraplus/frozen/shared_weight.hpp>
#include <loraplus/frozen/weight_view.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"
#include "support/sparse_weight.hpp"

namespace {

struct NoBackward {
  using Scalar = float;
  Eigen::Index in_features() const { return 1; }
  Eigen::Index out_features() const { return 1; }
  void forward(loraplus::ConstMatrixView<float>, loraplus::MatrixView<float>) const {}
};

struct WritingForward : test::SparseWeight<float> {
  // not const: a frozen weight must not change
  void forward(loraplus::ConstMatrixView<float>, loraplus::MatrixView<float>) {}
};

using RowView = loraplus::WeightView<double, Eigen::RowMajor>;

static_assert(loraplus::FrozenWeight<loraplus::WeightView<float>>);
static_assert(loraplus::FrozenWeight<RowView>);
static_assert(loraplus::FrozenWeight<loraplus::SharedWeight<float>>);
static_assert(loraplus::FrozenWeight<test::SparseWeight<float>>);
static_assert(loraplus::DenseWeight<loraplus::WeightView<float>>);
static_assert(loraplus::DenseWeight<loraplus::SharedWeight<double>>);
static_assert(!loraplus::DenseWeight<test::SparseWeight<float>>);
static_assert(!loraplus::FrozenWeight<NoBackward>);
static_assert(!loraplus::FrozenWeight<WritingForward>);
static_assert(!loraplus::FrozenWeight<Eigen::MatrixXf>);

}  // namespace

TEST_CASE("a dense weight can be read as a matrix of its own") {
  const auto w = test::random_matrix<double>(4, 3, 1);
  CHECK(loraplus::to_matrix(loraplus::WeightView{w}) == w);
  const loraplus::RowMajorMatrix<double> row_major = w;
  CHECK(loraplus::to_matrix(loraplus::WeightView{row_major}) == w);
  CHECK(loraplus::to_matrix(loraplus::SharedWeight<double>(w)) == w);
}
