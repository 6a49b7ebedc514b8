#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/nn/activation_layer.hpp>
#include <loraplus/nn/linear.hpp>
#include <loraplus/nn/sequential.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/gradients.hpp"
#include "support/matrices.hpp"
#include "support/user_layer.hpp"

using loraplus::Activation;
using loraplus::ActivationLayer;
using loraplus::FrozenLinear;
using loraplus::Linear;
using loraplus::LoraLinear;
using loraplus::Matrix;
using loraplus::Sequential;
using loraplus::SharedWeight;

namespace {

Linear<double> linear(loraplus::Index out, loraplus::Index in) {
  std::mt19937_64 generator{1};
  return Linear<double>(out, in, generator);
}

SharedWeight<double> frozen(loraplus::Index out, loraplus::Index in) {
  return SharedWeight<double>(test::random_matrix<double>(out, in, 4));
}

LoraLinear<SharedWeight<double>> adapted(loraplus::Index out, loraplus::Index in) {
  std::mt19937_64 generator{2};
  LoraLinear layer{frozen(out, in), {.rank = 2, .alpha = 5, .dropout = 0.3}, generator};
  layer.set_factors(test::random_matrix<double>(2, in, 5), test::random_matrix<double>(out, 2, 6));
  return layer;
}

}  // namespace

TEST_CASE("the gradients of layers composed at compile time, a user's among them") {
  Sequential net{linear(6, 5), ActivationLayer<double>(Activation::gelu, 6),
                 test::Scale<double>(6, 1.5), adapted(3, 6)};
  static_assert(loraplus::Layer<decltype(net)>);
  for (const loraplus::Index n : {1, 2, 17}) {
    test::require_gradients(net, n, 2, std::mt19937_64{7});
    test::require_accumulation(net, n, 2, std::mt19937_64{7});
  }
}

TEST_CASE("a single layer and nested sequences compose") {
  Sequential one{linear(6, 5)};
  const auto x = test::random_matrix<double>(5, 3, 2);
  CHECK(test::same_bits(predict(one, x), predict(linear(6, 5), x)));
  Sequential nested{one, Sequential{test::Scale<double>(6, 2.0), linear(2, 6)}};
  test::require_gradients(nested, 3, 2);
  std::vector<std::string> names;
  nested.visit_parameters([&](const auto& p) { names.push_back(p.name.str()); });
  CHECK(names ==
        std::vector<std::string>{"0.0.weight", "0.0.bias", "1.0.gain", "1.1.weight", "1.1.bias"});
}

TEST_CASE("below the lowest trained layer nothing is computed") {
  // A frozen weight that must not be asked for its backward product.
  struct OneWay {
    using Scalar = double;
    Matrix<double> w = Matrix<double>::Ones(4, 3);
    loraplus::Index in_features() const { return 3; }
    loraplus::Index out_features() const { return 4; }
    void forward(loraplus::ConstMatrixView<double> x, loraplus::MatrixView<double> y) const {
      y = w * x;
    }
    void backward(loraplus::ConstMatrixView<double>, loraplus::MatrixView<double>) const {
      throw std::logic_error("a product that nobody needs");
    }
  };
  Sequential net{FrozenLinear(OneWay{}), FrozenLinear(SharedWeight<double>(frozen(5, 4))),
                 adapted(2, 5)};
  auto cache = net.make_cache(2);
  const auto x = test::random_matrix<double>(3, 2, 1);
  Matrix<double> y(2, 2), dx(3, 2);
  net.forward(x, y, cache);
  CHECK_NOTHROW(net.backward(x, y, cache));
  CHECK_FALSE(net.get<2>().factors().a_gradient().isZero(0));
  CHECK_THROWS_AS(net.backward(x, y, dx, cache), std::logic_error);
}

TEST_CASE("layers that do not fit and batches that are too large are refused") {
  CHECK(test::message_of<loraplus::ShapeError>([] { Sequential(linear(6, 5), linear(2, 4)); }) ==
        "Sequential: layer 1 takes 4 features, but layer 0 gives 6");
  Sequential net{linear(6, 5), linear(2, 6)};
  auto cache = net.make_cache(2);
  Matrix<double> x = Matrix<double>::Ones(5, 3), y(2, 3);
  CHECK_THROWS_AS(net.forward(x, y, cache), loraplus::ShapeError);
  CHECK_THROWS_AS(net.backward(x, y, cache), loraplus::ShapeError);
  auto other = Sequential{linear(7, 5), linear(2, 7)}.make_cache(3);
  CHECK_THROWS_AS(net.forward(x, y, other), loraplus::StateError);
}
