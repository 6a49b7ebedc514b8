#include <loraplus/nn/linear.hpp>
#include <loraplus/nn/one_of.hpp>

#include "support/catch.hpp"
#include "support/gradients.hpp"
#include "support/matrices.hpp"
#include "support/user_layer.hpp"

using loraplus::Linear;
using loraplus::Matrix;
using loraplus::OneOf;

namespace {

using Either = OneOf<Linear<double>, test::Scale<double>>;
static_assert(loraplus::Layer<Either>);

Linear<double> linear() {
  return Linear<double>(test::random_matrix<double>(4, 3, 1));
}

}  // namespace

TEST_CASE("one of several layers does what that layer does") {
  Either dense = linear();
  Either scale = test::Scale<double>(3, 2.0);
  const auto x = test::random_matrix<double>(3, 5, 2);
  CHECK(test::same_bits(predict(dense, x), predict(linear(), x)));
  CHECK(predict(scale, x) == 2 * x);
  CHECK(dense.out_features() == 4);
  CHECK(scale.out_features() == 3);
  test::require_gradients(dense, 3, 3);
  test::require_gradients(scale, 3, 3);
}

TEST_CASE("the kind of a layer can be asked for") {
  Either dense = linear();
  CHECK(dense.get_if<Linear<double>>() != nullptr);
  CHECK(dense.get_if<test::Scale<double>>() == nullptr);
}

TEST_CASE("the cache of another kind is refused") {
  const Either dense = linear();
  const Either scale = test::Scale<double>(3, 2.0);
  auto cache = scale.make_cache(2);
  Matrix<double> x = Matrix<double>::Ones(3, 2), y(4, 2);
  CHECK_THROWS_AS(dense.forward(x, y, cache), loraplus::StateError);
}
