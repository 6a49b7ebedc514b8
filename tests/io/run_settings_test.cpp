#include <loraplus/io/run_settings.hpp>
#include <loraplus/loraplus.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"
#include "support/sparse_weight.hpp"

using namespace loraplus;
using loraplus::detail::ModelFacts;

TEST_CASE("an optimizer tells its rule, groups and options") {
  std::mt19937_64 generator{1};
  auto network = adapt(make_mlp<double>({3, 4}, Activation::relu, generator), {}, generator);
  RunSettings settings;
  const LoraPlus optimizer(Riemannian{AdamW{.learning_rate = 0.1, .beta2 = 0.99}}, {.ratio = 2},
                           network, {.schedule = {.decay = Decay::linear, .total_steps = 7}});
  detail::add_settings(optimizer, settings);
  CHECK(settings.at("rule") == "Riemannian AdamW");
  CHECK(settings.at("rule.beta2") == "0.99");
  CHECK(settings.at("rule.regularization") == "1e-06");
  CHECK(settings.at("clip_norm") == "inf");
  CHECK(settings.at("accumulation") == "1");
  CHECK(settings.at("schedule") == "linear");
  CHECK(settings.at("schedule.total_steps") == "7");
  CHECK(settings.at("group.B.learning_rate") == "0.2");
  CHECK(settings.at("group.B.weight_decay") == "0.01");
  CHECK(settings.at("group.A.parameters") == "fc1.lora_A");

  RunSettings others;
  detail::add_settings(Optimizer(LoraFa{Sgd{.momentum = 0.5, .nesterov = true}}, network), others);
  CHECK(others.at("rule") == "LoraFa SGD");
  CHECK(others.at("rule.momentum") == "0.5");
  CHECK(others.at("rule.nesterov") == "1");
}

TEST_CASE("layers tell their activations, scalings and dropout") {
  std::mt19937_64 generator{1};
  const auto network =
      adapt(make_mlp<double>({3, 4, 2}, Activation::silu, generator),
            {.lora = {.rank = 2, .alpha = 1, .dropout = 0.25}, .targets = {"fc1"}}, generator);
  CHECK(ModelFacts<double>(network).settings() ==
        RunSettings{{"layer.fc1.activation", "silu"},
                    {"layer.fc1.scaling", "0.5"},
                    {"layer.fc1.dropout", "0.25"},
                    {"layer.fc2.activation", "identity"}});
  const Sequential layers(Linear<double>(4, 3, generator),
                          ActivationLayer<double>(Activation::gelu, 4));
  CHECK(ModelFacts<double>(layers).settings() == RunSettings{{"layer.1.activation", "gelu"}});
}

TEST_CASE("a frozen weight is known by a product, whatever it is and wherever it stands") {
  const Matrix<double> w = test::random_matrix<double>(4, 3, 1);
  const Vector<double> b = test::random_matrix<double>(4, 1, 2);
  const auto product_of = [](const auto& model, const std::string& name) {
    return ModelFacts<double>(model).products().at(name);
  };
  std::mt19937_64 generator{1};
  const Vector<double> packed =
      product_of(LoraLinear(PackedWeight(w, b), LoraOptions{}, generator), "layer");
  CHECK(packed.size() == 4);
  CHECK(test::relative_distance(packed, product_of(FrozenLinear(WeightView(w, b)), "layer")) <
        1e-14);
  const Sequential layers(FrozenLinear(SharedWeight<double>(w, b)),
                          FrozenLinear(SharedWeight<double>(w.transpose())));
  CHECK(test::relative_distance(packed, product_of(layers, "layer.0")) < 1e-14);
  CHECK(product_of(layers, "layer.1").size() == 3);

  const Matrix<double> no_bias = packed - b;
  CHECK(test::relative_distance(
            no_bias,
            product_of(FrozenLinear(test::SparseWeight<double>{w.sparseView()}), "layer")) < 1e-14);

  Matrix<double> other = w;
  other(2, 1) += 0.1;
  CHECK(test::relative_distance(packed, product_of(FrozenLinear(WeightView(other, b)), "layer")) >
        1e-3);
  CHECK(test::relative_distance(packed, product_of(FrozenLinear(WeightView(w)), "layer")) > 1e-3);
  CHECK(ModelFacts<double>(Linear<double>(w, b)).products().empty());  // its weight is trained
}
