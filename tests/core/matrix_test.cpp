#include <loraplus/core/matrix.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"

using loraplus::ConstMatrixView;
using loraplus::Matrix;
using loraplus::MatrixView;
using loraplus::RowMajorMatrix;

namespace {

const float* seen(ConstMatrixView<float> batch) {
  return batch.data();
}
float* seen_to_write(MatrixView<float> batch) {
  return batch.data();
}

}  // namespace

TEST_CASE("a view sees a matrix, a block and a map in place") {
  Matrix<float> matrix = test::random_matrix<float>(5, 7, 1);
  CHECK(seen(matrix) == matrix.data());
  CHECK(seen(matrix.leftCols(3)) == matrix.data());
  CHECK(seen(matrix.block(2, 1, 2, 4)) == &matrix(2, 1));
  CHECK(seen_to_write(matrix) == matrix.data());
  CHECK(seen_to_write(matrix.middleCols(2, 3)) == matrix.col(2).data());
  Eigen::Map<const Matrix<float>> map(matrix.data(), 7, 5);
  CHECK(seen(map) == matrix.data());
}

TEST_CASE("a view of a block keeps its stride") {
  Matrix<float> matrix = test::random_matrix<float>(5, 7, 2);
  const ConstMatrixView<float> view = matrix.block(1, 2, 3, 4);
  REQUIRE(view.rows() == 3);
  REQUIRE(view.cols() == 4);
  CHECK(view == matrix.block(1, 2, 3, 4));
}

TEST_CASE("the transpose of a row-major matrix is a batch, without a copy") {
  RowMajorMatrix<float> samples = test::random<RowMajorMatrix<float>>(6, 4, 3);  // sample x feature
  const ConstMatrixView<float> batch = samples.transpose();
  CHECK(batch.data() == samples.data());
  CHECK(batch.rows() == 4);
  CHECK(batch(1, 5) == samples(5, 1));
}

TEST_CASE("writing through a view changes the matrix and nothing beside the block") {
  Matrix<float> matrix = Matrix<float>::Zero(4, 5);
  MatrixView<float> view = matrix.block(1, 1, 2, 3);
  view = Matrix<float>::Ones(2, 3);
  CHECK(matrix.sum() == 6);
  CHECK(matrix.block(1, 1, 2, 3) == Matrix<float>::Ones(2, 3));
}

TEST_CASE("assigning a view to a view copies the coefficients") {
  Matrix<float> source = test::random_matrix<float>(3, 2, 4);
  Matrix<float> target = Matrix<float>::Zero(3, 2);
  const MatrixView<float> from = source;
  MatrixView<float> to = target;
  to = from;
  CHECK(target == source);
  CHECK(to.data() == target.data());
}

TEST_CASE("an empty batch and a vector are batches") {
  const Matrix<float> empty(3, 0);
  CHECK(ConstMatrixView<float>(empty).cols() == 0);
  const Eigen::VectorXf sample = Eigen::VectorXf::Ones(3);
  CHECK(ConstMatrixView<float>(sample).rows() == 3);
  CHECK(ConstMatrixView<float>(sample).cols() == 1);
}
