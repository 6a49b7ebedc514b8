#include <loraplus/kernels/low_rank.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
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
          // the same in double, in one order of one expression
          const Matrix<double> a64 = a.template cast<double>(), b64 = b.template cast<double>(),
                               x64 = x.template cast<double>(), dy64 = dy.template cast<double>();
          const Matrix<double> h64 = double(s) * (a64 * x64);
          const Matrix<double> z64 = double(s) * (b64.transpose() * dy64);

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
          CHECK(test::relative_distance(y, dy64 + b64 * h64) < tolerance);
          CHECK(test::relative_distance(grad_b, b64 + dy64 * h64.transpose()) < tolerance);
          CHECK(test::relative_distance(grad_a, a64 + z64 * x64.transpose()) < tolerance);
          CHECK(test::relative_distance(dx, x64 + a64.transpose() * z64) < tolerance);
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
}
