#include <loraplus/kernels/low_rank.hpp>
#include <loraplus/kernels/reference.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/guarded.hpp"
#include "support/matrices.hpp"

using loraplus::Index;
using loraplus::Matrix;
using loraplus::RowMajorMatrix;

TEMPLATE_TEST_CASE("the six thin products equal their formulas", "", float, double) {
  using Scalar = TestType;
  const double tolerance = std::is_same_v<Scalar, float> ? 1e-5 : 1e-13;
  const Scalar s = Scalar(1.75);
  for (const Index in : {1, 7, 64}) {
    for (const Index out : {1, 5, 48}) {
      for (const Index r : {1, 3, 70, 300}) {
        for (const Index n : {0, 1, 2, 17}) {
          if (r == 300 && (n == 2 || in == 7)) continue;
          CAPTURE(in, out, r, n);
          const auto a = test::random<RowMajorMatrix<Scalar>>(r, in, 1);
          const auto b = test::random_matrix<Scalar>(out, r, 2);
          const auto x = test::random_matrix<Scalar>(in, n, 3);
          const auto dy = test::random_matrix<Scalar>(out, n, 4);
          // the same as plain expressions, in double
          namespace reference = loraplus::kernels::reference;
          const Matrix<double> a64 = a.template cast<double>(), b64 = b.template cast<double>(),
                               x64 = x.template cast<double>(), dy64 = dy.template cast<double>();
          Matrix<double> h64(r, n), z64(r, n), y64 = dy64, dx64 = x64, grad_b64 = b64,
                                               grad_at64 = a64.transpose();
          reference::project(double(s), a64.transpose(), x64, h64);
          reference::project(double(s), b64, dy64, z64);
          reference::expand(b64, h64, y64);
          reference::expand(a64.transpose(), z64, dx64);
          reference::accumulate(dy64, h64, grad_b64);
          reference::accumulate(x64, z64, grad_at64);

          Matrix<Scalar> h(r, n), z(r, n), y = dy, dx = x, grad_b = b;
          RowMajorMatrix<Scalar> grad_a = a;
          auto grad_at = grad_a.transpose();
          namespace kernels = loraplus::kernels;
          kernels::project<Scalar>(s, a.transpose(), x, h);
          kernels::expand<Scalar>(b, h, y);
          kernels::project<Scalar>(s, b, dy, z);
          kernels::accumulate<Scalar>(dy, h, grad_b);
          kernels::accumulate<Scalar>(x, z, grad_at);
          kernels::expand<Scalar>(a.transpose(), z, dx);

          Matrix<Scalar> z_too(r, n), grad_b_too = b;
          kernels::project_and_accumulate<Scalar>(s, b, dy, h, z_too, grad_b_too);
          CHECK(test::same_bits(z_too, z));
          CHECK(test::same_bits(grad_b_too, grad_b));

          CHECK(test::relative_distance(h, h64) < tolerance);
          CHECK(test::relative_distance(z, z64) < tolerance);
          CHECK(test::relative_distance(y, y64) < tolerance);
          CHECK(test::relative_distance(grad_b, grad_b64) < tolerance);
          CHECK(test::relative_distance(grad_a, grad_at64.transpose()) < tolerance);
          CHECK(test::relative_distance(dx, dx64) < tolerance);
        }
      }
    }
  }
}

TEST_CASE("z and dB read together, in groups of samples, have the bits of two products") {
  const Index rows = 3000, r = 5, n = 100;
  const auto f = test::random_matrix<float>(rows, r, 1),
             dy = test::random_matrix<float>(rows, n, 2), h = test::random_matrix<float>(r, n, 3);
  Matrix<float> z(r, n), z_too(r, n), grad = f, grad_too = f;
  loraplus::kernels::project<float>(2, f, dy, z);
  loraplus::kernels::accumulate<float>(dy, h, grad);
  loraplus::kernels::project_and_accumulate<float>(2, f, dy, h, z_too, grad_too);
  CHECK(test::same_bits(z_too, z));
  CHECK(test::same_bits(grad_too, grad));
}

TEMPLATE_TEST_CASE("the thin products stay inside blocks of larger matrices", "", float, double) {
  using Scalar = TestType;
  namespace kernels = loraplus::kernels;
  const Index rows = 45, r = 5, n = 19;
  const auto f = test::random_matrix<Scalar>(rows, r, 1);
  const auto x = test::random_matrix<Scalar>(rows, n, 2);
  const auto h = test::random_matrix<Scalar>(r, n, 3);
  Matrix<Scalar> z(r, n), y = x, grad = f;
  kernels::project<Scalar>(2, f, x, z);
  kernels::expand<Scalar>(f, h, y);
  kernels::accumulate<Scalar>(x, h, grad);

  const test::Guarded<Scalar> f_block(f), x_block(x), h_block(h);
  const Matrix<Scalar> zero = Matrix<Scalar>::Zero(r, n);
  test::Guarded<Scalar> z_block(zero, 7), z_too(zero, 7), y_block(x, 7), grad_block(f, 7),
      grad_too(f, 7);
  kernels::project<Scalar>(2, f_block.view(), x_block.view(), z_block.view());
  kernels::expand<Scalar>(f_block.view(), h_block.view(), y_block.view());
  kernels::accumulate<Scalar>(x_block.view(), h_block.view(), grad_block.view());
  kernels::project_and_accumulate<Scalar>(2, f_block.view(), x_block.view(), h_block.view(),
                                          z_too.view(), grad_too.view());
  CHECK(test::same_bits(z_block.inside(), z));
  CHECK(test::same_bits(z_too.inside(), z));
  CHECK(test::same_bits(y_block.inside(), y));
  CHECK(test::same_bits(grad_block.inside(), grad));
  CHECK(test::same_bits(grad_too.inside(), grad));
  for (const auto* block : {&z_block, &z_too, &y_block, &grad_block, &grad_too}) {
    CHECK(block->is_intact());
  }

  // memory that ends with the last coefficient
  test::Tight<Scalar> f_tight(f), h_tight(h), y_tight(x);
  kernels::expand<Scalar>(f_tight.view(), h_tight.view(), y_tight.view());
  CHECK(test::same_bits(Matrix<Scalar>(y_tight.view()), y));
}

TEST_CASE("NaN and infinity reach the row and the column they belong to in y += F h") {
  const Index rows = 40, r = 3, n = 10;
  for (const float special : {std::numeric_limits<float>::quiet_NaN(), HUGE_VALF}) {
    Matrix<float> f = Matrix<float>::Ones(rows, r), h = Matrix<float>::Ones(r, n);
    f(33, 1) = special;
    Matrix<float> y = Matrix<float>::Zero(rows, n);
    loraplus::kernels::expand<float>(f, h, y);
    for (Index i = 0; i < rows; ++i) {
      CHECK(y.row(i).allFinite() == (i != 33));
    }
    f(33, 1) = 1;
    h(2, 9) = special;
    y.setZero();
    loraplus::kernels::expand<float>(f, h, y);
    for (Index j = 0; j < n; ++j) {
      CHECK(y.col(j).allFinite() == (j != 9));
    }
  }
}

TEST_CASE("the thin products refuse other shapes and name the matrix") {
  namespace kernels = loraplus::kernels;
  const Matrix<float> f(7, 3), x(7, 5), h(3, 5), short_x(6, 5), short_h(2, 5), narrow_h(3, 4);
  Matrix<float> y(7, 5), z(3, 5), grad(7, 3), wide(7, 4), low(2, 5);
  const auto message = [](auto&& product) {
    return test::message_of<loraplus::ShapeError>(product);
  };
  CHECK(message([&] { kernels::project<float>(1, f, short_x, z); }) ==
        "kernels::multiply_transposed: x must be 7 x 5, found 6 x 5");
  CHECK(message([&] { kernels::project<float>(1, f, x, low); }) ==
        "kernels::multiply_transposed: y must be 3 x 5, found 2 x 5");
  CHECK(message([&] { kernels::expand<float>(f, short_h, y); }) ==
        "kernels::expand: h must be 3 x 5, found 2 x 5");
  CHECK(message([&] { kernels::expand<float>(f, narrow_h, y); }) ==
        "kernels::expand: h must be 3 x 5, found 3 x 4");
  CHECK(message([&] { kernels::expand<float>(f, h, z); }) ==
        "kernels::expand: y must be 7 x 5, found 3 x 5");
  CHECK(message([&] { kernels::accumulate<float>(x, narrow_h, grad); }) ==
        "kernels::accumulate: h must be 3 x 5, found 3 x 4");
  CHECK(message([&] { kernels::accumulate<float>(x, h, wide); }) ==
        "kernels::accumulate: g must be 7 x 3, found 7 x 4");
  CHECK(message([&] { kernels::project_and_accumulate<float>(1, f, x, narrow_h, z, grad); }) ==
        "kernels::project_and_accumulate: h must be 3 x 5, found 3 x 4");
  CHECK(message([&] { kernels::project_and_accumulate<float>(1, f, x, h, low, grad); }) ==
        "kernels::project_and_accumulate: z must be 3 x 5, found 2 x 5");
  CHECK(message([&] { kernels::project_and_accumulate<float>(1, f, x, h, z, wide); }) ==
        "kernels::project_and_accumulate: grad_f must be 7 x 3, found 7 x 4");
}
