#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/nn/linear.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/optim/sgd.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::AdamW;
using loraplus::ArgumentError;
using loraplus::GroupOverride;
using loraplus::Index;
using loraplus::Linear;
using loraplus::LoraLinear;
using loraplus::LoraPlus;
using loraplus::LoraPlusOptions;
using loraplus::Matrix;
using loraplus::Optimizer;
using loraplus::OptimizerOptions;
using loraplus::Parameter;
using loraplus::ParameterGroup;
using loraplus::Role;
using loraplus::RowMajorMatrix;
using loraplus::Sgd;
using loraplus::SharedWeight;
using loraplus::Vector;

namespace {

using Names = std::vector<std::string>;

/// A trained tensor of a user's model.
template <typename Plain>
struct Trained {
  Plain value;
  Plain gradient;

  Trained(Index rows, Index cols, unsigned seed)
      : value(test::random<Plain>(rows, cols, seed)), gradient(Plain::Zero(rows, cols)) {}

  auto parameter(std::string_view name, Role role) {
    return Parameter<typename Plain::Scalar>(name, role, value, gradient);
  }
};

template <typename Scalar>
LoraLinear<SharedWeight<Scalar>> make_adapted(Index out, Index in, unsigned seed) {
  std::mt19937_64 generator{seed};
  LoraLinear<SharedWeight<Scalar>> layer(
      SharedWeight<Scalar>(test::random_matrix<Scalar>(out, in, seed)), {.rank = 2}, generator);
  layer.set_factors(test::random_matrix<Scalar>(2, in, seed + 1),
                    test::random_matrix<Scalar>(out, 2, seed + 2));
  return layer;
}

/// Adapters on an embedding of 10 words and on two dense layers: the model of PEFT's tests, as a
/// user would put it together.
template <typename Scalar_>
struct AdaptedNet {
  using Scalar = Scalar_;

  Trained<Matrix<Scalar>> embedding_a{2, 10, 1};
  Trained<Matrix<Scalar>> embedding_b{6, 2, 2};
  LoraLinear<SharedWeight<Scalar>> lin0 = make_adapted<Scalar>(6, 6, 3);
  LoraLinear<SharedWeight<Scalar>> lin1 = make_adapted<Scalar>(4, 6, 4);

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    visit(embedding_a.parameter("embedding.lora_A", Role::embedding));
    visit(embedding_b.parameter("embedding.lora_B", Role::embedding));
    loraplus::visit_part("lin0", lin0, visit);
    loraplus::visit_part("lin1", lin1, visit);
  }
};

/// The same without adapters, trained in full, with a normalisation layer.
template <typename Scalar_>
struct DenseNet {
  using Scalar = Scalar_;

  Trained<Matrix<Scalar>> embedding{6, 10, 1};
  Trained<Vector<Scalar>> norm_gain{6, 1, 2};
  Trained<Vector<Scalar>> norm_bias{6, 1, 3};
  Linear<Scalar> lin0{test::random_matrix<Scalar>(4, 6, 4), test::random_vector<Scalar>(4, 5)};

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    visit(embedding.parameter("embedding", Role::weight));
    visit(norm_gain.parameter("norm.gain", Role::norm));
    visit(norm_bias.parameter("norm.bias", Role::bias));
    loraplus::visit_part("lin0", lin0, visit);
  }
};

/// A tensor of every role, of those with matrices and vectors both.
template <typename Scalar_>
struct EveryRole {
  using Scalar = Scalar_;

  Trained<RowMajorMatrix<Scalar>> a{2, 5, 1};
  Trained<Matrix<Scalar>> b{4, 2, 2};
  Trained<Vector<Scalar>> b_bias{4, 1, 3};
  Trained<Vector<Scalar>> magnitude{4, 1, 4};
  Trained<Matrix<Scalar>> convolution_magnitude{1, 4, 5};
  Trained<Vector<Scalar>> norm_gain{4, 1, 6};
  Trained<Vector<Scalar>> norm_bias{4, 1, 7};
  Trained<Matrix<Scalar>> embedding{3, 4, 8};
  Trained<Matrix<Scalar>> head{2, 4, 9};
  Trained<Vector<Scalar>> head_bias{2, 1, 10};
  Trained<Vector<Scalar>> gate{4, 1, 11};

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    visit(a.parameter("fc.lora_A", Role::lora_a));
    visit(b.parameter("fc.lora_B", Role::lora_b));
    visit(b_bias.parameter("fc.lora_B.bias", Role::bias));
    visit(magnitude.parameter("fc.magnitude", Role::magnitude));
    visit(convolution_magnitude.parameter("conv.magnitude", Role::magnitude));
    visit(norm_gain.parameter("norm.gain", Role::norm));
    visit(norm_bias.parameter("norm.bias", Role::bias));
    visit(embedding.parameter("embedding.lora_A", Role::embedding));
    visit(head.parameter("head.weight", Role::weight));
    visit(head_bias.parameter("head.bias", Role::bias));
    visit(gate.parameter("gate", Role::weight));
  }
};

/// One coefficient in A, one in B.
template <typename Scalar_>
struct TwoNumbers {
  using Scalar = Scalar_;

  Trained<RowMajorMatrix<Scalar>> a{1, 1, 1};
  Trained<Matrix<Scalar>> b{1, 1, 2};

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    visit(a.parameter("lora_A", Role::lora_a));
    visit(b.parameter("lora_B", Role::lora_b));
  }
};

template <typename Model>
void fill_gradients(Model& model, unsigned seed) {
  model.visit_parameters([&](auto parameter) {
    parameter.gradient =
        test::random_vector<typename Model::Scalar>(parameter.size(), seed++).array();
  });
}

/// All parameters one after the other.
template <typename Model>
Vector<typename Model::Scalar> values_of(Model& model) {
  Vector<typename Model::Scalar> values(loraplus::parameter_count(model));
  Index first = 0;
  model.visit_parameters([&](const auto& parameter) {
    values.segment(first, parameter.size()) = parameter.value.matrix();
    first += parameter.size();
  });
  return values;
}

void check_group(const ParameterGroup& group, const std::string& name, double learning_rate,
                 double weight_decay, const Names& parameters) {
  INFO("group " << group.name);
  CHECK(group.name == name);
  CHECK(group.learning_rate == learning_rate);
  CHECK(group.weight_decay == weight_decay);
  CHECK(group.parameters == parameters);
}

template <typename Rule>
std::string lora_plus_refusal(const Rule& rule, const LoraPlusOptions& options) {
  TwoNumbers<double> model;
  return test::message_of<ArgumentError>([&] { LoraPlus(rule, options, model); });
}

}  // namespace

TEMPLATE_TEST_CASE("O1: LoRA+ makes the four groups of the reference implementation", "", float,
                   double) {
  AdaptedNet<TestType> model;
  const LoraPlus optimizer(AdamW{.learning_rate = 5e-5, .weight_decay = 0.1},
                           LoraPlusOptions{.ratio = 1.2, .embedding_learning_rate = 2e-6}, model);
  REQUIRE(optimizer.groups().size() == 4);
  check_group(optimizer.groups()[0], "A", 5e-5, 0.1, {"lin0.lora_A", "lin1.lora_A"});
  check_group(optimizer.groups()[1], "embedding", 2e-6, 0.1,
              {"embedding.lora_A", "embedding.lora_B"});
  check_group(optimizer.groups()[2], "B", 1.2 * 5e-5, 0.1, {"lin0.lora_B", "lin1.lora_B"});
  check_group(optimizer.groups()[3], "B_no_decay", 1.2 * 5e-5, 0, {});
}

TEST_CASE("LoRA+ trains adapters of embeddings at 1e-6 unless told otherwise") {
  AdaptedNet<double> model;
  const LoraPlus optimizer(AdamW{.learning_rate = 5e-5}, LoraPlusOptions{.ratio = 1.2}, model);
  CHECK(optimizer.group_of("embedding.lora_A").learning_rate == 1e-6);
  CHECK(optimizer.group_of("embedding.lora_B").learning_rate == 1e-6);
  CHECK(optimizer.group_of("lin0.lora_A").learning_rate == 5e-5);
  CHECK(std::abs(optimizer.group_of("lin0.lora_B").learning_rate - 6e-5) < 1e-19);
}

TEST_CASE("LoRA+ takes a model without adapters and keeps the empty groups") {
  DenseNet<double> model;
  const LoraPlus optimizer(Sgd{.learning_rate = 0.5, .weight_decay = 0.25},
                           LoraPlusOptions{.ratio = 2}, model);
  REQUIRE(optimizer.groups().size() == 4);
  check_group(optimizer.groups()[0], "A", 0.5, 0.25, {"embedding", "lin0.weight"});
  check_group(optimizer.groups()[1], "embedding", 1e-6, 0.25, {});
  check_group(optimizer.groups()[2], "B", 1, 0.25, {});
  check_group(optimizer.groups()[3], "B_no_decay", 1, 0, {"norm.gain", "norm.bias", "lin0.bias"});
}

TEST_CASE("LoRA+ puts every role and shape where PEFT does") {
  EveryRole<double> model;
  const LoraPlus optimizer(Sgd{.learning_rate = 0.5, .weight_decay = 0.25},
                           LoraPlusOptions{.ratio = 4, .embedding_learning_rate = 0.125}, model);
  REQUIRE(optimizer.groups().size() == 4);
  check_group(optimizer.groups()[0], "A", 0.5, 0.25,
              {"fc.lora_A", "conv.magnitude", "head.weight"});
  check_group(optimizer.groups()[1], "embedding", 0.125, 0.25, {"embedding.lora_A"});
  check_group(optimizer.groups()[2], "B", 2, 0.25, {"fc.lora_B", "fc.magnitude", "gate"});
  check_group(optimizer.groups()[3], "B_no_decay", 2, 0,
              {"fc.lora_B.bias", "norm.gain", "norm.bias", "head.bias"});
}

TEMPLATE_TEST_CASE("K17: LoRA+ moves each parameter with the rate and decay of its group", "",
                   float, double) {
  using Scalar = TestType;
  EveryRole<Scalar> model;
  fill_gradients(model, 50);
  const EveryRole<Scalar> start = model;
  LoraPlus optimizer(Sgd{.learning_rate = 0.5, .weight_decay = 0.25},
                     LoraPlusOptions{.ratio = 4, .embedding_learning_rate = 0.125}, model);
  optimizer.step(model);
  const auto check = [](const auto& now, const auto& before, double rate, double decay) {
    const Matrix<double> p = before.value.template cast<double>();
    const Matrix<double> g = before.gradient.template cast<double>();
    const Matrix<double> expected = p - rate * (g + decay * p);
    CHECK(test::relative_distance(now.value, expected) <
          4 * std::numeric_limits<Scalar>::epsilon());
    CHECK(now.gradient.isZero(0));
  };
  check(model.a, start.a, 0.5, 0.25);
  check(model.b, start.b, 2, 0.25);
  check(model.b_bias, start.b_bias, 2, 0);
  check(model.magnitude, start.magnitude, 2, 0.25);
  check(model.convolution_magnitude, start.convolution_magnitude, 0.5, 0.25);
  check(model.norm_gain, start.norm_gain, 2, 0);
  check(model.norm_bias, start.norm_bias, 2, 0);
  check(model.embedding, start.embedding, 0.125, 0.25);
  check(model.head, start.head, 0.5, 0.25);
  check(model.head_bias, start.head_bias, 2, 0);
  check(model.gate, start.gate, 2, 0.25);
}

TEMPLATE_TEST_CASE("a backward pass and a step move every adapter and no frozen weight", "", float,
                   double) {
  using Scalar = TestType;
  AdaptedNet<Scalar> model;
  const Matrix<Scalar> w0 = model.lin0.weight().weight();
  const Matrix<Scalar> w1 = model.lin1.weight().weight();
  LoraPlus optimizer(AdamW{.learning_rate = 0.01, .weight_decay = 0}, LoraPlusOptions{.ratio = 4},
                     model);
  const auto x = test::random_matrix<Scalar>(6, 3, 20);
  const auto dy = test::random_matrix<Scalar>(4, 3, 21);
  Matrix<Scalar> hidden(6, 3);
  Matrix<Scalar> dhidden(6, 3);
  Matrix<Scalar> y(4, 3);
  auto cache0 = model.lin0.make_cache(3);
  auto cache1 = model.lin1.make_cache(3);
  model.lin0.forward(x, hidden, cache0);
  model.lin1.forward(hidden, y, cache1);
  model.lin1.backward(hidden, dy, dhidden, cache1);
  model.lin0.backward(x, dhidden, cache0);
  model.embedding_a.gradient.setOnes();
  model.embedding_b.gradient.setOnes();

  const Vector<Scalar> before = values_of(model);
  CHECK(optimizer.step(model));
  CHECK((values_of(model).array() != before.array()).all());
  CHECK(test::same_bits(w0, model.lin0.weight().weight()));
  CHECK(test::same_bits(w1, model.lin1.weight().weight()));
}

TEST_CASE("one step of LoRA+ around AdamW, by hand") {
  TwoNumbers<double> model;
  model.a.value(0) = 1;
  model.b.value(0) = 1;
  model.a.gradient(0) = 0.5;
  model.b.gradient(0) = 0.5;
  LoraPlus optimizer(AdamW{.learning_rate = 5e-5, .weight_decay = 0.1},
                     LoraPlusOptions{.ratio = 16}, model);
  optimizer.step(model);
  CHECK(std::abs(model.a.value(0) - 0.999945000001) < 1e-12);
  CHECK(std::abs(model.b.value(0) - 0.999120000016) < 1e-12);
}

TEMPLATE_TEST_CASE("LoRA+ with ratio 1 is the rule itself, bit for bit", "", float, double) {
  using Scalar = TestType;
  const AdamW rule{.learning_rate = 0.01, .weight_decay = 0.1};
  TwoNumbers<Scalar> model;
  TwoNumbers<Scalar> expected;
  LoraPlus optimizer(rule, LoraPlusOptions{.ratio = 1}, model);
  Optimizer plain(rule, expected);
  for (unsigned step = 1; step <= 5; ++step) {
    fill_gradients(model, step);
    fill_gradients(expected, step);
    optimizer.step(model);
    plain.step(expected);
    CHECK(test::same_bits(values_of(model), values_of(expected)));
  }
}

TEST_CASE("a ratio below 1 makes B the slower one") {
  TwoNumbers<double> model;
  const LoraPlus optimizer(Sgd{.learning_rate = 0.5}, LoraPlusOptions{.ratio = 0.25}, model);
  CHECK(optimizer.group_of("lora_A").learning_rate == 0.5);
  CHECK(optimizer.group_of("lora_B").learning_rate == 0.125);
}

TEST_CASE("LoRA+ obeys schedule, clipping and accumulation") {
  TwoNumbers<double> model;
  model.a.value(0) = 1;
  model.b.value(0) = 1;
  LoraPlus optimizer(Sgd{.learning_rate = 0.5}, LoraPlusOptions{.ratio = 4}, model,
                     {.schedule = {.warmup_steps = 2}, .clip_norm = 5, .accumulation = 2});
  model.a.gradient(0) = 12;  // the mean gradient is (6, 8), its norm 10
  model.b.gradient(0) = 16;
  CHECK_FALSE(optimizer.step(model));
  CHECK(optimizer.step(model));
  CHECK(std::abs(model.a.value(0) - (1 - 0.5 * 0.5 * 3)) < 1e-6);
  CHECK(std::abs(model.b.value(0) - (1 - 0.5 * 2 * 4)) < 1e-6);
}

TEST_CASE("an override of a role that spans two groups inherits from each") {
  EveryRole<double> model;
  const LoraPlus optimizer(Sgd{.learning_rate = 0.5, .weight_decay = 0.25},
                           LoraPlusOptions{.ratio = 4}, model,
                           {.overrides = {{.role = Role::magnitude, .weight_decay = 0.0}}});
  REQUIRE(optimizer.groups().size() == 6);
  check_group(optimizer.groups()[0], "A", 0.5, 0.25, {"fc.lora_A", "head.weight"});
  check_group(optimizer.groups()[2], "B", 2, 0.25, {"fc.lora_B", "gate"});
  check_group(optimizer.group_of("fc.magnitude"), "magnitude of B", 2, 0, {"fc.magnitude"});
  check_group(optimizer.group_of("conv.magnitude"), "magnitude of A", 0.5, 0, {"conv.magnitude"});
}

TEST_CASE("overrides take biases off the ratio and a head out of the adapters' rate") {
  EveryRole<double> model;
  const Sgd rule{.learning_rate = 0.5, .weight_decay = 0.25};
  const LoraPlus optimizer(rule, LoraPlusOptions{.ratio = 4}, model,
                           {.overrides = {{.role = Role::bias, .learning_rate = 0.5},
                                          {.parameter = "head.weight", .learning_rate = 0.0625},
                                          {.parameter = "head.bias", .learning_rate = 0.0625}}});
  check_group(optimizer.group_of("fc.lora_B.bias"), "bias of B_no_decay", 0.5, 0,
              {"fc.lora_B.bias", "norm.bias"});
  check_group(optimizer.group_of("head.weight"), "head.weight of A", 0.0625, 0.25, {"head.weight"});
  check_group(optimizer.group_of("head.bias"), "head.bias of bias of B_no_decay", 0.0625, 0,
              {"head.bias"});
  check_group(optimizer.group_of("norm.gain"), "B_no_decay", 2, 0, {"norm.gain"});
}

TEST_CASE("LoRA+ refuses a ratio that is not set, not positive or not finite") {
  constexpr double infinite = std::numeric_limits<double>::infinity();
  const double not_a_number = std::numeric_limits<double>::quiet_NaN();
  CHECK(lora_plus_refusal(Sgd{}, {}) ==
        "LoraPlusOptions: ratio must be set, positive and finite, found nan");
  for (const double bad : {0.0, -0.0, -16.0, infinite, -infinite, not_a_number}) {
    CHECK(test::contains(lora_plus_refusal(AdamW{}, {.ratio = bad}), "LoraPlusOptions: ratio"));
  }
}

TEST_CASE("LoRA+ refuses a ratio that makes the rate of B overflow") {
  CHECK(test::contains(lora_plus_refusal(Sgd{.learning_rate = 1e3}, {.ratio = 1e306}), "ratio"));
}

TEST_CASE("LoRA+ names an embedding rate or a setting of the rule that is out of its range") {
  constexpr double infinite = std::numeric_limits<double>::infinity();
  const double not_a_number = std::numeric_limits<double>::quiet_NaN();
  for (const double bad : {-1e-6, infinite, not_a_number}) {
    CHECK(test::contains(lora_plus_refusal(AdamW{}, {.ratio = 2, .embedding_learning_rate = bad}),
                         "LoraPlusOptions: embedding_learning_rate"));
    CHECK(test::contains(lora_plus_refusal(AdamW{.learning_rate = bad}, {.ratio = 2}),
                         "AdamW: the learning rate"));
    CHECK(test::contains(lora_plus_refusal(Sgd{.weight_decay = bad}, {.ratio = 2}),
                         "Sgd: the weight decay"));
  }
  TwoNumbers<double> model;
  CHECK_NOTHROW(
      LoraPlus(AdamW{}, LoraPlusOptions{.ratio = 2, .embedding_learning_rate = 0}, model));
}
