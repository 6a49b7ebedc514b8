#include <loraplus/kernels/merge.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/exact.hpp"
#include "support/guarded.hpp"
#include "support/matrices.hpp"

namespace kernels = loraplus::kernels;
using kernels::PackedMatrix;
using loraplus::Index;
using loraplus::Matrix;

namespace {

template <typename Scalar>
Matrix<Scalar> unpacked(const PackedMatrix<Scalar>& packed) {
  Matrix<Scalar> matrix(packed.rows(), packed.cols());
  packed.copy_to(matrix);
  return matrix;
}

}  // namespace

TEMPLATE_TEST_CASE("a merge is M + s F G', and leaves M as it was", "", float, double,
                   long double) {
  using Scalar = TestType;
  const auto s = Scalar(1.7);
  for (const Index rank : {1, 7, 256, 257, 300}) {
    for (const auto& [rows, cols] :
         {std::pair<Index, Index>{1, 1}, {1, 30}, {50, 1}, {37, 29}, {64, 8}}) {
      CAPTURE(rank, rows, cols);
      const auto m = test::random_matrix<Scalar>(rows, cols, 1);
      const auto f = test::random_matrix<Scalar>(rows, rank, 2);
      const auto g = test::random_matrix<Scalar>(cols, rank, 3);
      const PackedMatrix<Scalar> packed(m);
      PackedMatrix<Scalar> to(test::random_matrix<Scalar>(rows, cols, 4));  // written over
      kernels::merge<Scalar>(packed, s, f, g, to);
      const Matrix<Scalar> merged = unpacked(to);
      CHECK(test::Exact<Scalar>(rows, cols).add(m).add(f, g.transpose(), s).error(merged) <= 1);
      CHECK(test::same_values(unpacked(packed), m));

      const test::Guarded<Scalar> f_block(f), g_block(g);
      kernels::merge<Scalar>(packed, s, f_block.view(), g_block.view(), to);
      CHECK(test::same_values(unpacked(to), merged));
    }
  }
}

TEMPLATE_TEST_CASE("a factor of zeros leaves the bits of M", "", float, double) {
  using Scalar = TestType;
  const auto m = test::random_matrix<Scalar>(37, 29, 1);
  const auto factor = test::random_matrix<Scalar>(37, 5, 2);
  const PackedMatrix<Scalar> packed(m);
  PackedMatrix<Scalar> to(Matrix<Scalar>::Ones(37, 29));
  kernels::merge<Scalar>(packed, Scalar(1.7), factor, Matrix<Scalar>::Zero(29, 5).eval(), to);
  CHECK(test::same_bits(unpacked(to), m));
  kernels::merge<Scalar>(PackedMatrix<Scalar>(2 * m), Scalar(1), Matrix<Scalar>(37, 0),
                         Matrix<Scalar>(29, 0), to);  // and so do factors of no columns
  CHECK(test::same_bits(unpacked(to), (2 * m).eval()));
}

TEST_CASE("a merge refuses other shapes and names the matrix") {
  const PackedMatrix<float> m(Matrix<float>::Zero(7, 4));
  const auto message = [&](Index f_rows, Index g_rows, Index g_cols, Index to_rows) {
    return test::message_of<loraplus::ShapeError>([&] {
      PackedMatrix<float> to(Matrix<float>::Zero(to_rows, 4));
      kernels::merge<float>(m, 1, Matrix<float>(f_rows, 3), Matrix<float>(g_rows, g_cols), to);
    });
  };
  CHECK(message(6, 4, 3, 7) == "kernels::merge: f must be 7 x 3, found 6 x 3");
  CHECK(message(7, 5, 3, 7) == "kernels::merge: g must be 4 x 3, found 5 x 3");
  CHECK(message(7, 4, 2, 7) == "kernels::merge: g must be 4 x 3, found 4 x 2");
  CHECK(message(7, 4, 3, 8) == "kernels::merge: to must be 7 x 4, found 8 x 4");
}

TEMPLATE_TEST_CASE("NaN and infinity in a factor reach their row or column of a merge", "", float,
                   double) {
  using Scalar = TestType;
  for (const Scalar bad :
       {std::numeric_limits<Scalar>::quiet_NaN(), std::numeric_limits<Scalar>::infinity()}) {
    for (const bool in_f : {false, true}) {
      const auto m = test::random_matrix<Scalar>(19, 21, 1);
      auto f = test::random_matrix<Scalar>(19, 3, 2), g = test::random_matrix<Scalar>(21, 3, 3);
      (in_f ? f : g)(18, 1) = bad;
      PackedMatrix<Scalar> to(m);
      kernels::merge<Scalar>(PackedMatrix<Scalar>(m), Scalar(1.7), f, g, to);
      test::Exact<Scalar> exact(19, 21);
      CHECK(exact.add(m).add(f, g.transpose(), Scalar(1.7)).same_specials(unpacked(to)));
    }
  }
}
