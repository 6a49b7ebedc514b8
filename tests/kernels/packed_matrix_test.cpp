#include <loraplus/kernels/packed_matrix.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"
#include "support/guarded.hpp"
#include "support/matrices.hpp"

using loraplus::Index;
using loraplus::Matrix;
using loraplus::RowMajorMatrix;
using loraplus::kernels::PackedMatrix;
using loraplus::kernels::packet_size;

namespace {

/// Packs `matrix`, whose coefficients are those of `expected`, and takes it out again.
template <typename Source, typename Scalar>
void require_round_trip(const Source& matrix, const Matrix<Scalar>& expected) {
  const PackedMatrix<Scalar> packed(matrix);
  REQUIRE(packed.rows() == expected.rows());
  REQUIRE(packed.cols() == expected.cols());
  test::Guarded<Scalar> columns(Matrix<Scalar>::Zero(expected.rows(), expected.cols()));
  auto block = columns.view();
  packed.copy_to(block);
  CHECK(test::same_values(columns.inside(), expected));
  CHECK(columns.is_intact());
  RowMajorMatrix<Scalar> rows(expected.rows(), expected.cols());
  packed.copy_to(rows);
  CHECK(test::same_values(Matrix<Scalar>(rows), expected));
}

}  // namespace

TEMPLATE_TEST_CASE("a packed matrix gives back the bits of matrices of both orders, blocks, maps",
                   "", float, double, long double) {
  using Scalar = TestType;
  for (const auto& [rows, cols] : {std::pair<Index, Index>{0, 0},
                                   {0, 5},
                                   {5, 0},
                                   {1, 1},
                                   {1, 40},
                                   {40, 1},
                                   {16, 16},
                                   {17, 15},
                                   {31, 33},
                                   {64, 7}}) {
    CAPTURE(rows, cols);
    const auto matrix = test::random_matrix<Scalar>(rows, cols, 1);
    require_round_trip(matrix, matrix);
    require_round_trip(RowMajorMatrix<Scalar>(matrix), matrix);
    require_round_trip(test::Guarded<Scalar>(matrix).view(), matrix);
    const Matrix<Scalar> transposed = matrix.transpose();
    require_round_trip(transposed.transpose(), matrix);
  }
  const auto big = test::random_matrix<Scalar>(60, 40, 2);
  using Strides = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  const Eigen::Map<const Matrix<Scalar>, 0, Strides> map(big.data() + 1, 19, 20, Strides(120, 3));
  require_round_trip(map, Matrix<Scalar>(map));
}

TEMPLATE_TEST_CASE("a strip holds its rows column by column, and zeros below the last row", "",
                   float, double, long double) {
  using Scalar = TestType;
  const Index size = packet_size<Scalar>;
  for (const Index rows : {1, 2, 15, 16, 17, 40}) {
    for (const Index cols : {1, 2, 3, 33}) {
      CAPTURE(rows, cols);
      const auto matrix = test::random_matrix<Scalar>(rows, cols, 1);
      const PackedMatrix<Scalar> packed(matrix);
      CHECK(packed.strips() * size == PackedMatrix<Scalar>::padded(rows));
      Index wrong = 0;
      for (Index i = 0; i < packed.strips() * size; ++i) {
        for (Index k = 0; k < cols; ++k) {
          const Scalar expected = i < rows ? matrix(i, k) : Scalar(0);
          wrong += packed.strip(i / size)[k * size + i % size] == expected ? 0 : 1;
        }
      }
      CHECK(wrong == 0);
    }
  }
}

TEMPLATE_TEST_CASE("packing a large matrix costs little more memory than the matrix", "", float,
                   double) {
  using Scalar = TestType;
  for (const Index rows : {256, 257, 271, 300, 512, 777}) {
    for (const Index cols : {256, 257, 300, 511, 768}) {
      CAPTURE(rows, cols);
      const PackedMatrix<Scalar> packed(Matrix<Scalar>::Ones(rows, cols));
      const auto raw = static_cast<double>(rows * cols) * sizeof(Scalar);
      // rows up to a whole packet, and a cache line a strip
      CHECK(static_cast<double>(packed.bytes()) <= 1.0626 * raw);
      if (rows % packet_size<Scalar> == 0) CHECK(static_cast<double>(packed.bytes()) <= 1.03 * raw);
      CHECK(packed.stride() >= cols * packet_size<Scalar>);
      CHECK(packed.stride() * static_cast<Index>(sizeof(Scalar)) % 128 == 64);
    }
  }
}
