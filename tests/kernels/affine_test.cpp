#include <loraplus/kernels/affine.hpp>
#include <loraplus/kernels/gradient_product.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"
#include "support/matrices.hpp"

using loraplus::ConstVectorView;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::Vector;

TEMPLATE_TEST_CASE("the dense products equal the sums that define them", "", float, double) {
  using Scalar = TestType;
  for (const Index in : {1, 5, 33}) {
    for (const Index out : {1, 7, 40}) {
      for (const Index n : {0, 1, 2, 17}) {
        CAPTURE(in, out, n);
        const auto w = test::random_matrix<Scalar>(out, in, 1);
        const auto b = test::random_vector<Scalar>(out, 2);
        const auto x = test::random_matrix<Scalar>(in, n, 3);
        const auto dy = test::random_matrix<Scalar>(out, n, 4);

        test::Exact<Scalar> y(out, n), y_biased(out, n), dx(in, n), dw(out, in), db(out, 1);
        y.add(w, x);
        y_biased.add(w, x).add(b);
        dx.add(w.transpose(), dy);
        dw.add(w).add(dy, x.transpose());  // accumulated onto something
        db.add(b).add(dy, Vector<Scalar>::Ones(n));

        Matrix<Scalar> y_found(out, n), dx_found(in, n), dw_found = w;
        Vector<Scalar> db_found = b;
        loraplus::kernels::affine<Scalar>(w, ConstVectorView<Scalar>(b.data(), out), x, y_found);
        loraplus::kernels::affine_backward<Scalar>(w, dy, dx_found);
        loraplus::kernels::accumulate<Scalar>(dy, x, dw_found);
        loraplus::kernels::accumulate_bias_gradient(dy, db_found);
        CHECK(y_biased.error(y_found) <= 1);
        CHECK(dx.error(dx_found) <= 1);
        CHECK(dw.error(dw_found) <= 1);
        CHECK(db.error(db_found) <= 1);

        loraplus::kernels::affine<Scalar>(w, ConstVectorView<Scalar>(nullptr, 0), x, y_found);
        CHECK(y.error(y_found) <= 1);
      }
    }
  }
}

TEMPLATE_TEST_CASE("a lookup is the product with columns of a single 1", "", float, double) {
  using Scalar = TestType;
  const auto w = test::random_matrix<Scalar>(5, 7, 1);
  const auto b = test::random_vector<Scalar>(5, 2);
  const std::vector<Index> tokens{6, 0, 3, 6};
  Matrix<Scalar> y(5, 4);
  loraplus::kernels::lookup<Scalar>(w, ConstVectorView<Scalar>(b.data(), 5), tokens, y);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const Vector<Scalar> expected = w.col(tokens[i]) + b;
    CHECK(test::same_bits(Vector<Scalar>(y.col(static_cast<Index>(i))), expected));
  }
  loraplus::kernels::lookup<Scalar>(w, ConstVectorView<Scalar>(nullptr, 0), tokens, y);
  CHECK(test::same_bits(Vector<Scalar>(y.col(2)), Vector<Scalar>(w.col(3))));
  Matrix<Scalar> none(5, 0);
  loraplus::kernels::lookup<Scalar>(w, ConstVectorView<Scalar>(b.data(), 5), {}, none);
}
