#include <loraplus/kernels/affine.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"

using loraplus::ConstVectorView;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::Vector;

TEMPLATE_TEST_CASE("the dense products equal the sums that define them", "", float, double) {
  using Scalar = TestType;
  const double tolerance = std::is_same_v<Scalar, float> ? 1e-5 : 1e-14;
  for (const Index in : {1, 5, 33}) {
    for (const Index out : {1, 7, 40}) {
      for (const Index n : {0, 1, 2, 17}) {
        CAPTURE(in, out, n);
        const auto w = test::random_matrix<Scalar>(out, in, 1);
        const auto b = test::random_vector<Scalar>(out, 2);
        const auto x = test::random_matrix<Scalar>(in, n, 3);
        const auto dy = test::random_matrix<Scalar>(out, n, 4);

        Matrix<double> y = Matrix<double>::Zero(out, n);
        Matrix<double> dx = Matrix<double>::Zero(in, n);
        Matrix<double> dw = w.template cast<double>();  // accumulated onto something
        Vector<double> db = b.template cast<double>();
        for (Index s = 0; s < n; ++s) {
          for (Index o = 0; o < out; ++o) {
            y(o, s) = b(o);
            db(o) += dy(o, s);
            for (Index i = 0; i < in; ++i) {
              y(o, s) += double(w(o, i)) * double(x(i, s));
              dx(i, s) += double(w(o, i)) * double(dy(o, s));
              dw(o, i) += double(dy(o, s)) * double(x(i, s));
            }
          }
        }

        Matrix<Scalar> y_found(out, n), dx_found(in, n), dw_found = w;
        Vector<Scalar> db_found = b;
        loraplus::kernels::affine<Scalar>(w, ConstVectorView<Scalar>(b.data(), out), x, y_found);
        loraplus::kernels::affine_backward<Scalar>(w, dy, dx_found);
        loraplus::kernels::accumulate_weight_gradient<Scalar>(x, dy, dw_found);
        loraplus::kernels::accumulate_bias_gradient(dy, db_found);
        CHECK(test::relative_distance(y_found, y) < tolerance);
        CHECK(test::relative_distance(dx_found, dx) < tolerance);
        CHECK(test::relative_distance(dw_found, dw) < tolerance);
        CHECK(test::relative_distance(db_found, db) < tolerance);

        loraplus::kernels::affine<Scalar>(w, ConstVectorView<Scalar>(nullptr, 0), x, y_found);
        y.colwise() -= b.template cast<double>();
        CHECK(test::relative_distance(y_found, y) < tolerance);
      }
    }
  }
}
