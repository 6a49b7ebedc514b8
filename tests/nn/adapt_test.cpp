#include <loraplus/frozen/weight_view.hpp>
#include <loraplus/nn/adapt.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/gradients.hpp"
#include "support/matrices.hpp"
#include "support/sparse_weight.hpp"

using loraplus::Activation;
using loraplus::adapt;
using loraplus::AdaptOptions;
using loraplus::BiasMode;
using loraplus::freeze;
using loraplus::FrozenLinear;
using loraplus::Linear;
using loraplus::LoraLinear;
using loraplus::make_mlp;
using loraplus::Matrix;
using loraplus::Mlp;
using loraplus::PackedWeight;
using loraplus::SharedWeight;
using loraplus::Vector;

namespace {

template <typename Scalar>
Mlp<Linear<Scalar>> pretrained() {
  std::mt19937_64 generator{1};
  return make_mlp<Scalar>({6, 9, 7, 4}, Activation::tanh, generator);
}

template <typename Network>
std::vector<std::string> parameter_names(Network& network) {
  std::vector<std::string> names;
  network.visit_parameters([&](const auto& p) { names.push_back(p.name.str()); });
  return names;
}

/// Moves every parameter off its start, so that no factor is zero.
template <typename Network>
void disturb(Network& network) {
  std::mt19937_64 generator{2};
  network.visit_parameters([&](auto p) {
    for (loraplus::Index i = 0; i < p.size(); ++i) {
      p.value(i) += 0.3 * loraplus::normal(generator);
    }
  });
}

using Names = std::vector<std::string>;

}  // namespace

TEMPLATE_TEST_CASE("an adapted network equals the trained one at the start, bit for bit", "", float,
                   double) {
  using Scalar = TestType;
  const auto network = pretrained<Scalar>();
  std::mt19937_64 generator{3};
  const auto x = test::random_matrix<Scalar>(6, 33, 4);
  const Matrix<Scalar> y = predict(network, x);
  CHECK(test::same_bits(predict(freeze(network), x), y));
  for (const auto bias : {BiasMode::none, BiasMode::lora_only, BiasMode::all}) {
    CHECK(test::same_bits(predict(adapt(network, {.lora = {.bias = bias}}, generator), x), y));
    CHECK(test::same_bits(
        predict(adapt(network, {.lora = {.bias = bias}, .targets = {"fc2"}, .train = {"fc3"}},
                      generator),
                x),
        y));
  }
}

TEST_CASE("layers are chosen by name, and the bias mode says which biases train") {
  const auto network = pretrained<double>();
  std::mt19937_64 generator{3};
  const auto names = [&](const AdaptOptions& options) {
    auto adapted = adapt(network, options, generator);
    return parameter_names(adapted);
  };
  CHECK(names({}) ==
        Names{"fc1.lora_A", "fc1.lora_B", "fc2.lora_A", "fc2.lora_B", "fc3.lora_A", "fc3.lora_B"});
  CHECK(names({.targets = {"fc2"}}) == Names{"fc2.lora_A", "fc2.lora_B"});
  CHECK(names({.train = {"fc3"}}) ==
        Names{"fc1.lora_A", "fc1.lora_B", "fc2.lora_A", "fc2.lora_B", "fc3.weight", "fc3.bias"});
  CHECK(names({.targets = {"fc1"}, .train = {"fc3"}}) ==
        Names{"fc1.lora_A", "fc1.lora_B", "fc3.weight", "fc3.bias"});
  CHECK(names({.lora = {.bias = BiasMode::lora_only}, .targets = {"fc2"}}) ==
        Names{"fc2.lora_A", "fc2.lora_B", "fc2.bias"});
  CHECK(names({.lora = {.bias = BiasMode::all}, .targets = {"fc2"}}) ==
        Names{"fc1.bias", "fc2.lora_A", "fc2.lora_B", "fc2.bias", "fc3.bias"});
}

TEST_CASE("thawed layers are trained in full, the others stay frozen, none is adapted") {
  const auto network = pretrained<double>();
  auto thawed = loraplus::thaw(freeze(network), {"fc1", "fc2"});
  CHECK(parameter_names(thawed) == Names{"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"});
  const auto x = test::random_matrix<double>(6, 33, 4);
  CHECK(test::same_bits(predict(thawed, x), predict(network, x)));
  disturb(thawed);
  test::require_gradients(thawed, 3, 4);
  CHECK(test::message_of<loraplus::ArgumentError>([&] {
          loraplus::thaw(freeze(network), {"fc4"});
        }) == "thaw: `train` names 'fc4', but no layer is called so; there are fc1, fc2, fc3");
}

TEST_CASE("a trained bias is not thrown away in silence") {
  const auto w = test::random_matrix<double>(5, 6, 1);
  const SharedWeight<double> weight(w, test::random_vector<double>(5, 2));
  const loraplus::FrozenMlp<SharedWeight<double>> frozen({{"only", FrozenLinear(weight, true)}});
  std::mt19937_64 generator{3};
  CHECK(test::contains(
      test::message_of<loraplus::ArgumentError>([&] { adapt(frozen, {}, generator); }), "'only'"));
}

TEST_CASE("a merged network starts without gradients") {
  auto thawed = loraplus::thaw(freeze(pretrained<double>()), {"fc1"});
  thawed.visit_parameters([](auto p) { p.gradient.setConstant(1); });
  auto plain = merged(thawed);
  plain.visit_parameters([](const auto& p) { CHECK((p.gradient == 0).all()); });
}

TEST_CASE("a network of long double learns") {
  std::mt19937_64 generator{1};
  const auto network = make_mlp<long double>({4, 5, 3}, Activation::gelu_tanh, generator);
  auto adapted = adapt(network, {.lora = {.rank = 2}}, generator);
  loraplus::LoraPlus optimizer{loraplus::AdamW{.learning_rate = 0.1}, {.ratio = 4}, adapted};
  auto cache = adapted.make_cache(6);
  const auto x = test::random_matrix<long double>(4, 6, 2);
  Matrix<long double> y(3, 6);
  adapted.forward(x, y, cache);
  const long double before = y.squaredNorm();
  for (int step = 0; step < 50; ++step) {
    adapted.forward(x, y, cache);
    adapted.backward(x, y, cache);  // of |y|^2 / 2
    optimizer.step(adapted);
  }
  CHECK(y.squaredNorm() < before / 2);
}

TEST_CASE("names that are unknown or in both lists are refused") {
  const auto network = pretrained<double>();
  std::mt19937_64 generator{3};
  const auto message = [&](const AdaptOptions& options) {
    return test::message_of<loraplus::ArgumentError>([&] { adapt(network, options, generator); });
  };
  CHECK(message({.targets = {"fc4"}}) ==
        "adapt: `targets` names 'fc4', but no layer is called so; there are fc1, fc2, fc3");
  CHECK(message({.train = {"head"}}) ==
        "adapt: `train` names 'head', but no layer is called so; there are fc1, fc2, fc3");
  CHECK(message({.targets = {"fc1", "fc2"}, .train = {"fc2"}}) ==
        "adapt: 'fc2' is both in `targets` and in `train`");
  CHECK(test::contains(message({.lora = {.rank = 0}, .targets = {"fc1"}}), "rank"));
}

TEST_CASE("the gradients of an adapted network in every bias mode, dropout on") {
  const auto network = pretrained<double>();
  std::mt19937_64 generator{3};
  for (const auto bias : {BiasMode::none, BiasMode::lora_only, BiasMode::all}) {
    auto adapted = adapt(network,
                         {.lora = {.rank = 3, .alpha = 5, .dropout = 0.3, .bias = bias},
                          .targets = {"fc2"},
                          .train = {"fc3"}},
                         generator);
    disturb(adapted);
    for (const loraplus::Index n : {1, 2, 17}) {
      test::require_gradients(adapted, n, 4, std::mt19937_64{7});
      test::require_accumulation(adapted, n, 4, std::mt19937_64{7});
    }
  }
}

TEST_CASE("training leaves the frozen weights as they were, bit for bit") {
  const auto network = pretrained<float>();
  const auto frozen = freeze(network, {.keep_original = true});
  std::mt19937_64 generator{3};
  auto adapted = adapt(frozen, {.lora = {.rank = 3, .bias = BiasMode::all}}, generator);
  auto cache = adapted.make_cache(5);
  const auto x = test::random_matrix<float>(6, 5, 4);
  Matrix<float> y(4, 5);
  loraplus::LoraPlus optimizer{loraplus::AdamW{.learning_rate = 0.01}, {.ratio = 4}, adapted};
  for (int step = 0; step < 20; ++step) {
    adapted.forward(x, y, cache);
    adapted.backward(x, y, cache);
    optimizer.step(adapted);
  }
  for (std::size_t i = 0; i < 3; ++i) {
    const auto& weight = frozen.stages()[i].layer.weight();
    const auto* lora = adapted.stages()[i].layer.get_if<LoraLinear<PackedWeight<float>>>();
    REQUIRE(lora != nullptr);
    CHECK(&lora->weight().original() == &weight.original());
    CHECK(test::same_bits(weight.original(), network.stages()[i].layer.weight()));
    CHECK(test::same_bits(to_matrix(weight), network.stages()[i].layer.weight()));
    CHECK(weight.bias() == network.stages()[i].layer.bias());
    CHECK_FALSE(lora->factors().b().isZero(0));
  }
}

TEST_CASE("adapted networks over one frozen network share its weights") {
  const auto frozen = freeze(pretrained<double>(), {.keep_original = true});
  std::mt19937_64 generator{3};
  auto first = adapt(frozen, {}, generator);
  auto second = adapt(frozen, {.targets = {"fc2"}}, generator);
  const auto* a = first.stages()[1].layer.get_if<LoraLinear<PackedWeight<double>>>();
  const auto* b = second.stages()[1].layer.get_if<LoraLinear<PackedWeight<double>>>();
  REQUIRE(a != nullptr);
  REQUIRE(b != nullptr);
  CHECK(&a->weight().original() == &b->weight().original());
}

TEST_CASE("a merged network is plain and computes the same") {
  const auto network = pretrained<double>();
  std::mt19937_64 generator{3};
  const auto x = test::random_matrix<double>(6, 5, 4);
  auto adapted = adapt(network,
                       {.lora = {.rank = 3, .alpha = 5, .bias = BiasMode::all},
                        .targets = {"fc2"},
                        .train = {"fc3"}},
                       generator);
  disturb(adapted);
  const auto plain = merged(adapted);
  CHECK(test::relative_distance(predict(plain, x), predict(adapted, x)) < 1e-14);
  CHECK(test::relative_distance(predict(plain, x), predict(network, x)) > 0.01);
  CHECK(plain.layer_names() == "fc1, fc2, fc3");

  // merging in place, and a disabled adapter, are seen too
  for_each_adapter(adapted, [](auto& layer) { layer.merge(); });
  CHECK(test::relative_distance(predict(merged(adapted), x), predict(plain, x)) < 1e-14);
  for_each_adapter(adapted, [](auto& layer) { layer.set_enabled(false); });
  CHECK(test::relative_distance(predict(merged(adapted), x), predict(adapted, x)) < 1e-14);
}

TEST_CASE("the backward pass of a network stops above its frozen lower part") {
  // A frozen weight that must not be asked for its backward product.
  struct OneWay {
    using Scalar = double;
    Matrix<double> w;
    loraplus::Index in_features() const { return w.cols(); }
    loraplus::Index out_features() const { return w.rows(); }
    void forward(loraplus::ConstMatrixView<double> x, loraplus::MatrixView<double> y) const {
      y = w * x;
    }
    void backward(loraplus::ConstMatrixView<double>, loraplus::MatrixView<double>) const {
      throw std::logic_error("a product that nobody needs");
    }
  };
  const loraplus::FrozenMlp<OneWay> frozen(
      {{"a", FrozenLinear(OneWay{test::random_matrix<double>(5, 3, 1)}), Activation::tanh},
       {"b", FrozenLinear(OneWay{test::random_matrix<double>(4, 5, 2)}), Activation::tanh}});
  std::mt19937_64 generator{3};
  auto adapted = adapt(frozen, {.targets = {"b"}}, generator);
  auto cache = adapted.make_cache(2);
  const auto x = test::random_matrix<double>(3, 2, 1);
  Matrix<double> y(4, 2), dx(3, 2);
  adapted.forward(x, y, cache);
  CHECK_NOTHROW(adapted.backward(x, y, cache));
  CHECK_THROWS_AS(adapted.backward(x, y, dx, cache), std::logic_error);
}

TEST_CASE("a user's own weights: views are adapted in place, sparse ones are frozen or adapted") {
  const auto w1 = test::random_matrix<double>(5, 6, 1);
  const auto b1 = test::random_vector<double>(5, 2);
  using View = loraplus::WeightView<double>;
  const loraplus::FrozenMlp<View> views({{"only", FrozenLinear(View(w1, b1)), Activation::relu}});
  std::mt19937_64 generator{3};
  auto adapted = adapt(views, {.lora = {.rank = 2}}, generator);
  disturb(adapted);
  test::require_gradients(adapted, 3, 4);

  using Sparse = test::SparseWeight<double>;
  const loraplus::FrozenMlp<Sparse> sparse({{"only", FrozenLinear(Sparse{w1.sparseView()})}});
  auto adapted_sparse = adapt(sparse, {.lora = {.rank = 2}}, generator);
  disturb(adapted_sparse);
  test::require_gradients(adapted_sparse, 3, 4);
  CHECK(test::contains(test::message_of<loraplus::ArgumentError>(
                           [&] { adapt(sparse, {.train = {"only"}}, generator); }),
                       "'only'"));
}

TEST_CASE(
    "a network with DoRA, or with biases of B, merges to a plain one that computes the same") {
  std::mt19937_64 generator{1};
  const auto base = freeze(loraplus::make_mlp<double>({5, 7, 3}, Activation::tanh, generator));
  for (const loraplus::LoraOptions& lora :
       {loraplus::LoraOptions{.rank = 2, .dora = true},
        loraplus::LoraOptions{.rank = 2, .alpha = 3, .lora_bias = true}}) {
    auto network = adapt(base, {.lora = lora}, generator);
    network.visit_parameters([&](auto parameter) {
      for (loraplus::Index i = 0; i < parameter.size(); ++i) {
        parameter.value(i) += loraplus::normal(generator);
      }
    });
    const auto x = test::random_matrix<double>(5, 4, 3);
    CHECK(test::relative_distance(predict(merged(network), x), predict(network, x)) < 1e-13);
    CHECK(test::relative_distance(predict(base, x), predict(network, x)) > 0.1);
  }
}
