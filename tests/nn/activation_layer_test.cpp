#include <loraplus/nn/activation_layer.hpp>

#include "support/catch.hpp"
#include "support/gradients.hpp"

using loraplus::Activation;
using loraplus::ActivationLayer;
using loraplus::Index;
using loraplus::Matrix;

static_assert(loraplus::Layer<ActivationLayer<float>>);

TEST_CASE("the gradients of every activation as a layer") {
  for (const Activation activation : {Activation::identity, Activation::relu, Activation::gelu,
                                      Activation::gelu_tanh, Activation::silu, Activation::tanh}) {
    for (const Index features : {1, 5, 48}) {
      for (const Index n : {1, 2, 17}) {
        CAPTURE(static_cast<int>(activation), features);
        ActivationLayer<double> layer(activation, features);
        test::require_gradients(layer, n, 1);
      }
    }
  }
}

TEST_CASE("an activation layer refuses wrong shapes and has nothing to train") {
  ActivationLayer<float> layer(Activation::relu, 3);
  auto cache = layer.make_cache(2);
  Matrix<float> x = Matrix<float>::Ones(3, 2), wrong(2, 2), large(3, 5);
  CHECK_THROWS_AS(layer.forward(wrong, wrong, cache), loraplus::ShapeError);
  CHECK_THROWS_AS(layer.forward(x, wrong, cache), loraplus::ShapeError);
  CHECK_THROWS_AS(layer.forward(large, large, cache), loraplus::ShapeError);
  CHECK_THROWS_AS(layer.backward(large, large, large, cache), loraplus::ShapeError);
  CHECK(loraplus::parameter_count(layer) == 0);
}
