#include <loraplus/frozen/weight_view.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::Index;
using loraplus::Matrix;
using loraplus::RowMajorMatrix;
using loraplus::Vector;
using loraplus::WeightView;

namespace {

// A temporary matrix would be gone before the first product.
static_assert(!std::is_constructible_v<WeightView<float>, Matrix<float>>);
static_assert(!std::is_constructible_v<WeightView<float>, const Matrix<float>>);
static_assert(!std::is_constructible_v<WeightView<float>, Matrix<float>&, Vector<float>>);
static_assert(!std::is_constructible_v<WeightView<float>, Matrix<float>, Vector<float>&>);
static_assert(std::is_constructible_v<WeightView<float>, const Matrix<float>&>);
static_assert(std::is_constructible_v<WeightView<float>, Matrix<float>&, Vector<float>&>);
// A Map owns nothing, so a temporary one is as good as a named one.
static_assert(std::is_constructible_v<WeightView<float>, Eigen::Map<const Matrix<float>>>);

/// W x + b and W' dy through the view, against Eigen.
template <typename View, typename W, typename B>
void require_products(const View& view, const W& w, const B& b) {
  using Scalar = typename View::Scalar;
  const double tolerance = std::is_same_v<Scalar, float> ? 1e-5 : 1e-14;
  for (const Index n : {0, 1, 2, 17}) {
    const auto x = test::random_matrix<Scalar>(w.cols(), n, 5);
    const auto dy = test::random_matrix<Scalar>(w.rows(), n, 6);
    Matrix<Scalar> y(w.rows(), n), dx(w.cols(), n);
    view.forward(x, y);
    view.backward(dy, dx);
    const Matrix<Scalar> expected = (w * x).colwise() + b;
    CHECK(test::relative_distance(y, expected) < tolerance);
    CHECK(test::relative_distance(dx, w.transpose() * dy) < tolerance);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("a view multiplies by matrices of both orders, blocks and maps", "", float,
                   double) {
  using Scalar = TestType;
  const auto big = test::random_matrix<Scalar>(19, 23, 1);
  const RowMajorMatrix<Scalar> big_rows = big;
  const auto b = test::random_vector<Scalar>(19, 2);
  const Vector<Scalar> none = Vector<Scalar>::Zero(19);

  require_products(WeightView{big, b}, big, b);
  require_products(WeightView{big_rows, b}, big, b);
  require_products(WeightView{big}, big, none);

  const auto block = big.block(3, 4, 11, 13);
  const auto block_rows = big_rows.block(3, 4, 11, 13);
  const Vector<Scalar> short_b = b.head(11);
  require_products(WeightView{block, short_b}, block, short_b);
  require_products(WeightView{block_rows, short_b}, block, short_b);

  require_products(WeightView{Eigen::Map<const Matrix<Scalar>>(big.data(), 19, 23), b}, big, b);
  const Eigen::Map<const Matrix<Scalar>, 0, Eigen::OuterStride<>> strided(big.data(), 10, 11,
                                                                          Eigen::OuterStride<>(38));
  const Vector<Scalar> ten = b.head(10);
  require_products(WeightView{strided, ten}, strided, ten);
}

TEST_CASE("a view never copies: it sees later changes of the matrix") {
  auto w = test::random_matrix<float>(4, 3, 1);
  const WeightView view{w};
  w *= 2;
  const auto x = test::random_matrix<float>(3, 2, 2);
  Matrix<float> y(4, 2);
  view.forward(x, y);
  CHECK(test::relative_distance(y, w * x) < 1e-6);
}

TEST_CASE("a bias of the wrong size is refused with both sizes") {
  const Matrix<float> w(4, 3);
  const Vector<float> b(3);
  const std::string message = test::message_of<loraplus::ShapeError>([&] { WeightView(w, b); });
  CHECK(message == "WeightView: b must be 4 x 1, found 3 x 1");
}

TEST_CASE("a view without a bias has an empty one") {
  const Matrix<float> w(4, 3);
  const Vector<float> b = Vector<float>::Ones(4);
  CHECK(WeightView{w}.bias().size() == 0);
  CHECK(WeightView(w, b).bias().data() == b.data());
}
