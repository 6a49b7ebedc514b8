#include <loraplus/nn/mlp.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/gradients.hpp"
#include "support/matrices.hpp"

using loraplus::Activation;
using loraplus::Index;
using loraplus::Linear;
using loraplus::make_mlp;
using loraplus::Matrix;
using loraplus::Mlp;

namespace {

using Network = Mlp<Linear<double>>;
static_assert(loraplus::Layer<Network>);
static_assert(loraplus::Layer<Mlp<Network>>);

constexpr Activation every_activation[] = {Activation::identity, Activation::relu,
                                           Activation::gelu,     Activation::gelu_tanh,
                                           Activation::silu,     Activation::tanh};

Network network(std::initializer_list<Index> widths, Activation activation) {
  std::mt19937_64 generator{1};
  return make_mlp<double>(widths, activation, generator);
}

}  // namespace

TEST_CASE("the gradients of networks of several depths, with every activation") {
  for (const Activation activation : every_activation) {
    for (const Index n : {1, 2, 17}) {
      CAPTURE(static_cast<int>(activation), n);
      auto shallow = network({5, 3}, activation);
      auto deep = network({5, 7, 1, 4, 3}, activation);
      test::require_gradients(shallow, n, 2);
      test::require_gradients(deep, n, 2);
      test::require_accumulation(deep, n, 2);
    }
  }
}

TEST_CASE("the gradients with an activation after the last layer") {
  for (const Activation activation : every_activation) {
    CAPTURE(static_cast<int>(activation));
    std::mt19937_64 generator{1};
    Network net({{"a", Linear<double>(4, 5, generator), Activation::tanh},
                 {"b", Linear<double>(3, 4, generator), activation}});
    test::require_gradients(net, 7, 2);
    test::require_accumulation(net, 7, 2);
  }
}

TEST_CASE("a network of networks is a layer, its names are nested") {
  std::vector<Mlp<Network>::Stage> stages;
  stages.push_back({"body", network({5, 4, 3}, Activation::tanh), Activation::silu});
  stages.push_back({"head", network({3, 2}, Activation::tanh)});
  Mlp<Network> outer(std::move(stages));
  test::require_gradients(outer, 3, 2);
  std::vector<std::string> names;
  outer.visit_parameters([&](const auto& p) { names.push_back(p.name.str()); });
  CHECK(names == std::vector<std::string>{"body.fc1.weight", "body.fc1.bias", "body.fc2.weight",
                                          "body.fc2.bias", "head.fc1.weight", "head.fc1.bias"});
}

TEST_CASE("a network computes its layers and activations one after the other") {
  const auto net = network({5, 7, 3}, Activation::relu);
  const auto x = test::random_matrix<double>(5, 4, 2);
  const auto& first = net.stages()[0].layer;
  const auto& second = net.stages()[1].layer;
  const Matrix<double> hidden = ((first.weight() * x).colwise() + first.bias()).cwiseMax(0);
  const Matrix<double> y = (second.weight() * hidden).colwise() + second.bias();
  CHECK(test::relative_distance(predict(net, x), y) < 1e-14);
}

TEST_CASE("the layers are fc1, fc2, ... and can be found by name") {
  auto net = network({5, 7, 3}, Activation::relu);
  CHECK(net.layer_names() == "fc1, fc2");
  CHECK(net.layer("fc2").out_features() == 3);
  CHECK(test::message_of<loraplus::ArgumentError>([&] { net.layer("fc3"); }) ==
        "Mlp: no layer is called 'fc3'; there are fc1, fc2");
}

TEST_CASE("networks that cannot be are refused") {
  std::mt19937_64 generator{1};
  const auto message = [](std::vector<Network::Stage> stages) {
    return test::message_of<loraplus::ArgumentError>([&] { Network(std::move(stages)); });
  };
  CHECK(message({}) == "Mlp: no layers");
  CHECK(message({{"a", Linear<double>(4, 5, generator)}, {"b", Linear<double>(2, 3, generator)}}) ==
        "Mlp: 'b' takes 3 features, but 'a' gives 4");
  CHECK(message({{"a", Linear<double>(4, 5, generator)}, {"a", Linear<double>(2, 4, generator)}}) ==
        "Mlp: two layers are called 'a'");
  CHECK_THROWS_AS(network({5}, Activation::relu), loraplus::ArgumentError);
  CHECK_THROWS_AS(network({5, 0, 3}, Activation::relu), loraplus::ArgumentError);
}

TEST_CASE("a network refuses wrong batches and caches") {
  auto net = network({5, 7, 3}, Activation::relu);
  auto cache = net.make_cache(4);
  Matrix<double> x = Matrix<double>::Ones(5, 4), y(3, 4), dx(5, 4);
  CHECK(test::message_of<loraplus::ShapeError>([&] { net.forward(y, y, cache); }) ==
        "Mlp::forward: x must be 5 x 4, found 3 x 4");
  CHECK_THROWS_AS(net.forward(x, x, cache), loraplus::ShapeError);
  Matrix<double> large_x = Matrix<double>::Ones(5, 5), large_y(3, 5);
  CHECK_THROWS_AS(net.forward(large_x, large_y, cache), loraplus::ShapeError);
  net.forward(x, y, cache);
  CHECK_THROWS_AS(net.backward(x, x, cache), loraplus::ShapeError);
  CHECK_THROWS_AS(net.backward(x, y, y, cache), loraplus::ShapeError);
  auto wider = network({5, 8, 3}, Activation::relu).make_cache(4);
  CHECK(test::contains(test::message_of<loraplus::StateError>([&] { net.forward(x, y, wider); }),
                       "'fc1'"));
  auto gated = network({5, 7, 3}, Activation::gelu);
  CHECK_THROWS_AS(gated.forward(x, y, cache), loraplus::StateError);
  const Network& read_only = net;
  CHECK(read_only.layer("fc1").out_features() == 7);
  CHECK(loraplus::parameter_count(read_only) == 5 * 7 + 7 + 7 * 3 + 3);
  auto other = network({5, 3}, Activation::relu).make_cache(4);
  CHECK_THROWS_AS(net.forward(x, y, other), loraplus::StateError);
}

TEST_CASE("an empty batch passes through a network") {
  auto net = network({5, 7, 3}, Activation::gelu);
  auto cache = net.make_cache(4);
  Matrix<double> x(5, 0), y(3, 0), dx(5, 0);
  net.forward(x, y, cache);
  net.backward(x, y, dx, cache);
  net.visit_parameters([](const auto& p) { CHECK((p.gradient == 0).all()); });
}
