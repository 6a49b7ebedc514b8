#include <functional>
#include <loraplus/adapter/initialize_data.hpp>
#include <loraplus/frozen/weight_view.hpp>
#include <loraplus/nn/adapt_initialized.hpp>
#include <loraplus/nn/multi_adapter.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/optimizer.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::Activation;
using loraplus::adapt;
using loraplus::AdaptedMlp;
using loraplus::AdaptOptions;
using loraplus::BiasMode;
using loraplus::Factors;
using loraplus::FrozenMlp;
using loraplus::Index;
using loraplus::LoraLinear;
using loraplus::Matrix;
using loraplus::PackedWeight;
using loraplus::SharedWeight;

namespace {

template <typename Scalar>
FrozenMlp<PackedWeight<Scalar>> untouched_network() {
  std::mt19937_64 generator{1};
  return freeze(loraplus::make_mlp<Scalar>({6, 9, 7, 4}, Activation::tanh, generator),
                {.copies = loraplus::Copies::one});
}

/// PiSSA of rank 3, s = 2 (of rank 2 in fc2).
template <typename Scalar>
Factors<Scalar> principal(const std::string& name, const Matrix<Scalar>& w) {
  return loraplus::pissa(w, name == "fc2" ? 2 : 3, 2.0);
}

template <typename Weight>
const LoraLinear<Weight>& adapted_layer(const AdaptedMlp<Weight>& network, std::string_view name) {
  return *network.layer(name).template get_if<LoraLinear<Weight>>();
}

/// Some steps of training on outputs of noise.
template <typename Weight>
void train_on_noise(AdaptedMlp<Weight>& network) {
  using Scalar = typename Weight::Scalar;
  const auto x = test::random_matrix<Scalar>(6, 8, 7),
             target = test::random_matrix<Scalar>(4, 8, 8);
  loraplus::Optimizer optimizer{loraplus::AdamW{.learning_rate = 0.02}, network};
  auto cache = network.make_cache(8);
  Matrix<Scalar> y(4, 8);
  for (int step = 0; step < 10; ++step) {
    network.forward(x, y, cache);
    const Matrix<Scalar> dy = y - target;
    network.backward(x, dy, cache);
    optimizer.step(network);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("T20: with PiSSA in all its layers a network computes what it did", "", float,
                   double) {
  using Scalar = TestType;
  const double tolerance = std::is_same_v<Scalar, float> ? 1e-6 : 1e-14;
  const auto base = untouched_network<Scalar>();
  const auto x = test::random_matrix<Scalar>(6, 33, 4);
  const Matrix<Scalar> y = predict(base, x);
  for (const bool dora : {false, true}) {
    for (const auto bias : {BiasMode::none, BiasMode::all}) {
      const auto network = adapt(base, {.lora = {.bias = bias, .dora = dora}}, principal<Scalar>);
      CHECK(test::relative_distance(predict(network, x), y) < tolerance);
    }
  }
  const auto network = adapt(base, {}, principal<Scalar>);
  CHECK(adapted_layer(network, "fc1").rank() == 3);
  CHECK(adapted_layer(network, "fc2").rank() == 2);
  for (const auto& stage : base.stages()) {
    const auto& layer = adapted_layer(network, stage.name);
    const Matrix<Scalar> w = to_matrix(stage.layer.weight());
    CHECK(test::relative_distance(to_matrix(layer.weight()), w) > 0.1);  // the base has changed
    CHECK(layer.scaling() == 2);
    CHECK(layer.weight().copies() == loraplus::Copies::one);
    CHECK(layer.bias() == stage.layer.bias());
  }
  CHECK(test::same_bits(predict(base, x), y));  // and that of others has not
}

TEST_CASE("T20: a trained network of PiSSA goes back to plain adapters over the untouched one") {
  const auto base = untouched_network<double>();
  const auto x = test::random_matrix<double>(6, 33, 4);
  using Choice = AdaptOptions;
  for (const AdaptOptions& options :
       {Choice{}, Choice{.lora = {.dropout = 0.3, .bias = BiasMode::all, .dora = true}},
        Choice{.lora = {.bias = BiasMode::lora_only}, .targets = {"fc2"}, .train = {"fc3"}},
        Choice{.lora = {.bias = BiasMode::all}, .targets = {"fc2"}}}) {
    const auto initial = adapt(base, options, principal<double>);
    auto trained = initial;
    train_on_noise(trained);
    const Matrix<double> y = predict(trained, x);
    CHECK(test::relative_distance(y, predict(base, x)) > 0.1);
    const auto plain = to_plain(base, trained, initial);
    CHECK(test::relative_distance(predict(plain, x), y) < 1e-13);
    const auto& layer = adapted_layer(plain, "fc2");
    CHECK(layer.rank() == 4);
    CHECK(layer.scaling() == 2);
    CHECK(layer.dropout() == options.lora.dropout);
    CHECK(layer.trains_bias() == (options.lora.bias != BiasMode::none));
    CHECK(test::same_bits(to_matrix(layer.weight()), to_matrix(base.layer("fc2").weight())));
    CHECK(test::relative_distance(predict(to_plain(base, initial, initial), x), predict(base, x)) <
          1e-13);
  }
}

TEST_CASE("a conversion keeps what is disabled, and refuses what is merged") {
  const auto base = untouched_network<double>();
  const auto initial = adapt(base, {}, principal<double>);
  auto trained = initial;
  train_on_noise(trained);
  auto& layer = *trained.stages()[1].layer.get_if<LoraLinear<PackedWeight<double>>>();
  layer.set_enabled(false);
  const auto plain = to_plain(base, trained, initial);
  CHECK(adapted_layer(plain, "fc1").enabled());
  CHECK_FALSE(adapted_layer(plain, "fc2").enabled());
  layer.merge();
  const auto refusal = [&](const auto& after, const auto& before) {
    return test::message_of<loraplus::StateError>([&] { to_plain(base, after, before); });
  };
  CHECK(test::contains(refusal(trained, initial), "'fc2' is merged"));
  CHECK(test::contains(refusal(initial, trained), "'fc2' is merged"));
}

TEST_CASE("first factors with a bias of B are refused, with a bias of zero they are not") {
  const auto base = untouched_network<double>();
  const auto biased = [&](double bias) {
    return adapt(base, {}, [&](const std::string& name, const Matrix<double>& w) {
      auto factors = principal(name, w);
      factors.bias.setConstant(w.rows(), name == "fc2" ? bias : 0);
      return factors;
    });
  };
  CHECK(test::contains(test::message_of<loraplus::ArgumentError>([&] { biased(1e-3); }), "'fc2'"));
  CHECK(adapted_layer(biased(0), "fc2").factors().has_bias());
}

TEST_CASE("T23: options that no initialisation follows are refused by name") {
  const auto base = untouched_network<double>();
  const auto refusal = [&](const loraplus::LoraOptions& lora) {
    return test::message_of<loraplus::ArgumentError>(
        [&] { adapt(base, {.lora = lora}, principal<double>); });
  };
  CHECK(test::contains(refusal({.lora_bias = true}), "without lora_bias"));
  CHECK(test::contains(refusal({.enabled_groups = {true}}), "without enabled_groups"));
}

TEST_CASE("a layer that gets no ranks stays frozen") {
  const auto base = untouched_network<double>();
  const auto network = adapt(base, {.lora = {.bias = BiasMode::all}},
                             [](const std::string& name, const Matrix<double>& w) {
                               return name == "fc2"
                                          ? Factors<double>{Matrix<double>(0, w.cols()),
                                                            Matrix<double>(w.rows(), 0), 1}
                                          : principal(name, w);
                             });
  using Frozen = loraplus::FrozenLinear<PackedWeight<double>>;
  const auto* layer = network.layer("fc2").get_if<Frozen>();
  REQUIRE(layer != nullptr);
  CHECK(layer->trains_bias());
  CHECK(adapted_layer(network, "fc3").rank() == 3);
  CHECK(to_plain(base, network, network).layer("fc2").get_if<Frozen>() != nullptr);
}

TEST_CASE("a conversion leaves adapters in groups of outputs as they are") {
  const auto base = untouched_network<double>();
  std::mt19937_64 generator{1};
  const auto initial = adapt(
      base, {.lora = {.rank = 2, .enabled_groups = {true, false}}, .targets = {"fc3"}}, generator);
  auto trained = initial;
  train_on_noise(trained);
  const auto x = test::random_matrix<double>(6, 5, 4);
  CHECK(test::same_bits(predict(to_plain(base, trained, initial), x), predict(trained, x)));
}

TEST_CASE("a trained network is initialised as its frozen copy; its originals stay with it") {
  std::mt19937_64 generator{1};
  const auto trained = loraplus::make_mlp<float>({6, 9, 7, 4}, Activation::tanh, generator);
  const auto x = test::random_matrix<float>(6, 5, 4);
  const auto frozen = freeze(trained, {.keep_original = true});
  const auto of_frozen = adapt(frozen, {}, principal<float>);
  const auto of_trained = adapt(trained, {}, principal<float>);
  CHECK(test::same_bits(predict(of_trained, x), predict(of_frozen, x)));
  CHECK(test::relative_distance(predict(of_trained, x), predict(trained, x)) < 1e-6);
  const auto& weight = adapted_layer(of_frozen, "fc1").weight();
  CHECK(test::same_bits(weight.original(), to_matrix(weight)));
  CHECK(weight.copies() == loraplus::Copies::two);
}

TEST_CASE("a converted network is an adapter beside others over one copy of the weights") {
  const auto base = untouched_network<double>();
  const auto x = test::random_matrix<double>(6, 5, 4);
  const auto initial = adapt(base, {}, principal<double>);
  auto trained = initial;
  train_on_noise(trained);
  loraplus::MultiAdapterMlp network(base);
  network.add("converted", to_plain(base, trained, initial));
  for (const auto& unconverted : {initial, trained}) {
    const auto refusal = [](auto&& change) {
      return test::message_of<loraplus::ArgumentError>(change);
    };
    CHECK(test::contains(refusal([&] { network.add("b", unconverted); }), "'fc1' of 'b'"));
    CHECK(test::contains(refusal([&] { network.replace("converted", unconverted); }), "to_plain"));
  }
  auto cache = network.make_cache(5);
  Matrix<double> y(4, 5);
  network.forward(x, y, cache);
  CHECK(test::relative_distance(y, predict(trained, x)) < 1e-13);
}

TEST_CASE("initialisations of every kind start a network; what leaves the weight shares it") {
  const auto base = untouched_network<double>();
  const auto x = test::random_matrix<double>(6, 5, 4);
  const Matrix<double> y = predict(base, x);
  std::mt19937_64 generator{3};
  const auto inputs = [](const Matrix<double>& w) {
    return test::random_matrix<double>(w.cols(), 20, 5);
  };
  using Function = std::function<Factors<double>(const std::string&, const Matrix<double>&)>;
  const std::vector<Function> functions{
      [](const auto&, const auto& w) { return loraplus::olora(w, 2, 0.5); },
      [&](const auto&, const auto& w) {
        loraplus::CordaStatistics statistics(w.cols());
        statistics.add(inputs(w));
        return loraplus::corda(w, statistics, 2, 2);
      },
      [&](const auto&, const auto& w) {
        return loraplus::lora_ga(w, test::random_matrix<double>(w.rows(), w.cols(), 6), 2, 2);
      },
      [&](const auto&, const auto& w) {
        return loraplus::orthogonal<double>(w.rows(), w.cols(), 2, 2, generator);
      }};
  for (const Function& function : functions) {
    CHECK(test::relative_distance(predict(adapt(base, {}, function), x), y) < 1e-13);
  }
  // B = 0: not a bit has changed, and no weight was copied.
  const auto network = adapt(base, {}, [](const auto&, const auto& w) {
    return Factors<double>{test::random_matrix<double>(2, w.cols(), 1),
                           Matrix<double>::Zero(w.rows(), 2), 3};
  });
  CHECK(test::same_bits(predict(network, x), y));
  CHECK(adapted_layer(network, "fc1").weight().bias().data() ==
        base.layer("fc1").weight().bias().data());
  CHECK(adapted_layer(to_plain(base, network, network), "fc1").rank() == 2);
}

TEST_CASE("the function sees the adapted layers alone, in their order, and what it throws") {
  const auto base = untouched_network<double>();
  std::vector<std::string> seen;
  const auto network = adapt(base, {.targets = {"fc3", "fc1"}},
                             [&](const std::string& name, const Matrix<double>& w) {
                               CHECK(test::same_bits(w, to_matrix(base.layer(name).weight())));
                               seen.push_back(name);
                               return principal(name, w);
                             });
  CHECK(seen == std::vector<std::string>{"fc1", "fc3"});
  CHECK_THROWS_AS(
      adapt(base, {}, [](const auto&, const auto& w) { return loraplus::pissa(w, 5, 2.0); }),
      loraplus::ArgumentError);
  CHECK_THROWS_AS(adapt(base, {},
                        [](const auto&, const auto& w) {
                          return loraplus::pissa(Matrix<double>(w.leftCols(3)), 2, 2.0);
                        }),
                  loraplus::ShapeError);
  CHECK_THROWS_AS(adapt(base, {.targets = {"fc9"}}, principal<double>), loraplus::ArgumentError);
}

TEST_CASE("a conversion needs the network that was adapted and the one before training") {
  const auto base = untouched_network<double>();
  const auto network = adapt(base, {}, principal<double>);
  const auto part = adapt(base, {.targets = {"fc1"}}, principal<double>);
  CHECK(test::contains(
      test::message_of<loraplus::ArgumentError>([&] { to_plain(base, network, part); }),
      "'fc2' of the initial network"));
  std::mt19937_64 generator{1};
  const auto small = freeze(loraplus::make_mlp<double>({6, 4}, Activation::tanh, generator));
  CHECK_THROWS_AS(to_plain(small, network, network), loraplus::ArgumentError);
  // A view has no matrix of its own to put the rest into.
  STATIC_REQUIRE(loraplus::RemadeWeight<PackedWeight<float>>);
  STATIC_REQUIRE(loraplus::RemadeWeight<SharedWeight<float>>);
  STATIC_REQUIRE_FALSE(loraplus::RemadeWeight<loraplus::WeightView<float>>);
}
