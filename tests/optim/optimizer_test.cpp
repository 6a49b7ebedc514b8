#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/optimizer.hpp>
#include <loraplus/optim/sgd.hpp>
#include <map>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::Adam;
using loraplus::AdamW;
using loraplus::ArgumentError;
using loraplus::Decay;
using loraplus::GroupOverride;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::NonFiniteError;
using loraplus::Optimizer;
using loraplus::OptimizerOptions;
using loraplus::OptimizerState;
using loraplus::Parameter;
using loraplus::ParameterGroup;
using loraplus::Role;
using loraplus::Sgd;
using loraplus::StateError;

namespace {

using Names = std::vector<std::string>;

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinite = std::numeric_limits<double>::infinity();

template <typename Scalar>
struct Tensor {
  std::string name;
  Role role;
  Matrix<Scalar> value;
  Matrix<Scalar> gradient;
};

/// A model as a user would write one: nothing but named tensors.
template <typename Scalar_>
struct Tensors {
  using Scalar = Scalar_;

  std::vector<Tensor<Scalar>> list;

  void add(const std::string& name, Role role, Index rows, Index cols) {
    const auto seed = static_cast<unsigned>(list.size());
    list.push_back({name, role, test::random_matrix<Scalar>(rows, cols, seed),
                    Matrix<Scalar>::Zero(rows, cols)});
  }

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    for (Tensor<Scalar>& tensor : list) {
      visit(Parameter<Scalar>(tensor.name, tensor.role, tensor.value, tensor.gradient));
    }
  }
};

template <typename Scalar>
Tensors<Scalar> make_model() {
  Tensors<Scalar> model;
  model.add("fc1.weight", Role::weight, 3, 4);
  model.add("fc1.bias", Role::bias, 3, 1);
  model.add("fc2.weight", Role::weight, 2, 3);
  model.add("fc2.bias", Role::bias, 2, 1);
  return model;
}

/// Adds a gradient, another one for each tensor and seed.
template <typename Scalar>
void add_gradients(Tensors<Scalar>& model, unsigned seed) {
  unsigned tensor_seed = 1000 * seed;
  for (Tensor<Scalar>& tensor : model.list) {
    tensor.gradient +=
        test::random_matrix<Scalar>(tensor.value.rows(), tensor.value.cols(), tensor_seed++);
  }
}

template <typename Scalar>
double gradient_norm(const Tensors<Scalar>& model) {
  double square = 0;
  for (const Tensor<Scalar>& tensor : model.list) {
    square += tensor.gradient.template cast<double>().squaredNorm();
  }
  return std::sqrt(square);
}

/// Scales the gradients so that they have this norm all together.
template <typename Scalar>
void scale_gradients(Tensors<Scalar>& model, double norm) {
  const auto factor = static_cast<Scalar>(norm / gradient_norm(model));
  for (Tensor<Scalar>& tensor : model.list) {
    tensor.gradient *= factor;
  }
}

template <typename Scalar>
bool same_values(const Tensors<Scalar>& a, const Tensors<Scalar>& b) {
  bool same = a.list.size() == b.list.size();
  for (std::size_t i = 0; same && i < a.list.size(); ++i) {
    same = test::same_bits(a.list[i].value, b.list[i].value);
  }
  return same;
}

template <typename Scalar>
bool same_gradients(const Tensors<Scalar>& a, const Tensors<Scalar>& b) {
  bool same = a.list.size() == b.list.size();
  for (std::size_t i = 0; same && i < a.list.size(); ++i) {
    same = test::same_bits(a.list[i].gradient, b.list[i].gradient);
  }
  return same;
}

/// How far two models are apart, relative to the largest distance of a tensor.
template <typename Scalar>
double distance(const Tensors<Scalar>& a, const Tensors<Scalar>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.list.size(); ++i) {
    largest = std::max(largest, test::relative_distance(a.list[i].value, b.list[i].value));
  }
  return largest;
}

template <typename Model, typename Opt>
void run(Model& model, Opt& optimizer, unsigned first_seed, unsigned steps) {
  for (unsigned seed = first_seed; seed < first_seed + steps; ++seed) {
    add_gradients(model, seed);
    optimizer.step(model);
  }
}

template <typename Rule>
std::string refusal(const Rule& rule, const OptimizerOptions& options) {
  auto model = make_model<double>();
  return test::message_of<ArgumentError>([&] { Optimizer(rule, model, options); });
}

/// A rule as a user would write one: steps of one size against the sign of the gradient.
struct SignDescent {
  double learning_rate = 0.5;
  double weight_decay = 0;

  Index state_count() const { return 0; }
  void validate() const {}

  template <typename Scalar>
  void update(loraplus::FlatView<Scalar> value, loraplus::ConstFlatView<Scalar> gradient,
              loraplus::OptimizerStateView<Scalar> /*state*/,
              const loraplus::UpdateContext& context) const {
    value -= static_cast<Scalar>(context.learning_rate) * gradient.sign();
  }
};

}  // namespace

TEMPLATE_TEST_CASE("an optimizer applies its rule to each parameter by itself", "", float, double) {
  using Scalar = TestType;
  using Array = Eigen::Array<Scalar, Eigen::Dynamic, 1>;
  const AdamW rule{.learning_rate = 0.01, .weight_decay = 0.1};
  auto model = make_model<Scalar>();
  auto expected = make_model<Scalar>();
  std::vector<OptimizerState<Scalar>> states;
  for (const auto& tensor : expected.list) {
    states.push_back(OptimizerState<Scalar>::Zero(tensor.value.size(), 2));
  }
  Optimizer optimizer(rule, model);
  for (unsigned step = 1; step <= 5; ++step) {
    add_gradients(model, step);
    add_gradients(expected, step);
    CHECK(optimizer.step(model));
    for (std::size_t i = 0; i < expected.list.size(); ++i) {
      auto& tensor = expected.list[i];
      Eigen::Map<Array> value(tensor.value.data(), tensor.value.size());
      Eigen::Map<Array> gradient(tensor.gradient.data(), tensor.gradient.size());
      rule.update<Scalar>(value, gradient, states[i], {0.01, 0.1, static_cast<Index>(step)});
      tensor.gradient.setZero();
    }
    CHECK(same_values(model, expected));
    CHECK(same_gradients(model, expected));  // zero again
    CHECK(optimizer.steps() == static_cast<Index>(step));
  }
}

/// One tensor of 2500 coefficients, or the same ones as 50 tensors of a column each.
template <typename Scalar>
Tensors<Scalar> make_columns(bool whole) {
  const auto value = test::random_matrix<Scalar>(50, 50, 1);
  Tensors<Scalar> model;
  for (Index j = 0; j < (whole ? 1 : 50); ++j) {
    const Matrix<Scalar> part = whole ? value : value.col(j);
    model.list.push_back({std::to_string(j), Role::weight, part, 0 * part});
  }
  return model;
}

template <typename Scalar, typename Rule>
void require_parts_agree(const Rule& rule) {
  auto whole = make_columns<Scalar>(true), columns = make_columns<Scalar>(false);
  const OptimizerOptions options{.clip_norm = 20};  // the gradient's norm is about 50
  Optimizer one(rule, whole, options), many(rule, columns, options);
  for (unsigned seed = 2; seed < 6; ++seed) {
    const auto gradient = test::random_matrix<Scalar>(50, 50, seed);
    whole.list[0].gradient += gradient;
    for (Index j = 0; j < 50; ++j) {
      columns.list[static_cast<std::size_t>(j)].gradient += gradient.col(j);
    }
    one.step(whole);
    many.step(columns);
  }
  const double tolerance = std::is_same_v<Scalar, float> ? 1e-5 : 1e-13;
  for (Index j = 0; j < 50; ++j) {
    const auto& column = columns.list[static_cast<std::size_t>(j)].value;
    CHECK(test::relative_distance(whole.list[0].value.col(j), column) < tolerance);
  }
  CHECK((whole.list[0].gradient.array() == 0).all());
}

TEMPLATE_TEST_CASE("a large parameter moves as its columns would, each by itself", "", float,
                   double) {
  require_parts_agree<TestType>(Sgd{.learning_rate = 0.1, .weight_decay = 0.1});
  require_parts_agree<TestType>(Sgd{.learning_rate = 0.1, .momentum = 0.9});
  require_parts_agree<TestType>(loraplus::AdamW{.learning_rate = 0.1, .weight_decay = 0.1});
}

TEST_CASE("an optimizer has one group with the settings of its rule") {
  auto model = make_model<double>();
  const Optimizer optimizer(Sgd{.learning_rate = 0.5, .momentum = 0.25, .weight_decay = 0.125},
                            model);
  REQUIRE(optimizer.groups().size() == 1);
  const ParameterGroup& group = optimizer.groups()[0];
  CHECK(group.name == "all");
  CHECK(group.learning_rate == 0.5);
  CHECK(group.weight_decay == 0.125);
  CHECK(group.parameters == Names{"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"});
  CHECK(optimizer.rule().momentum == 0.25);
  CHECK(optimizer.steps() == 0);
}

TEST_CASE("a rule of one's own moves the parameters") {
  auto model = make_model<double>();
  const auto start = model;
  Optimizer optimizer(SignDescent{}, model);
  add_gradients(model, 1);
  const Matrix<double> sign = model.list[2].gradient.cwiseSign();
  optimizer.step(model);
  CHECK(model.list[2].value == start.list[2].value - 0.5 * sign);
  CHECK(optimizer.state_bytes() == 0);
}

TEMPLATE_TEST_CASE("the parameters of a model share one step counter", "", float, double) {
  using Scalar = TestType;
  Tensors<Scalar> both = make_model<Scalar>();
  both.list.resize(2);
  Tensors<Scalar> first{{both.list[0]}};
  Tensors<Scalar> second{{both.list[1]}};
  const Adam rule{.learning_rate = 0.01};
  Optimizer optimizer(rule, both);
  Optimizer first_optimizer(rule, first);
  Optimizer second_optimizer(rule, second);
  for (unsigned step = 1; step <= 5; ++step) {
    add_gradients(both, step);
    first.list[0].gradient = both.list[0].gradient;
    second.list[0].gradient = both.list[1].gradient;
    optimizer.step(both);
    first_optimizer.step(first);
    second_optimizer.step(second);
    CHECK(test::same_bits(both.list[0].value, first.list[0].value));
    CHECK(test::same_bits(both.list[1].value, second.list[0].value));
  }
}

TEMPLATE_TEST_CASE("an optimizer goes on with a model that has moved", "", float, double) {
  using Scalar = TestType;
  const Adam rule{.learning_rate = 0.01};
  auto stays = make_model<Scalar>();
  auto leaves = make_model<Scalar>();
  Optimizer staying(rule, stays);
  Optimizer leaving(rule, leaves);
  run(stays, staying, 1, 6);

  run(leaves, leaving, 1, 2);
  std::vector<Tensors<Scalar>> elsewhere{std::move(leaves)};
  run(elsewhere[0], leaving, 3, 2);
  Tensors<Scalar> copy = elsewhere[0];
  elsewhere.clear();
  auto moved_optimizer = std::move(leaving);
  run(copy, moved_optimizer, 5, 2);
  CHECK(same_values(copy, stays));
  CHECK(moved_optimizer.steps() == 6);
}

TEMPLATE_TEST_CASE("four accumulated gradients make one step by their mean", "", float, double) {
  using Scalar = TestType;
  const AdamW rule{.learning_rate = 0.01, .weight_decay = 0.1};
  auto model = make_model<Scalar>();
  auto expected = make_model<Scalar>();
  Optimizer optimizer(rule, model, OptimizerOptions{.accumulation = 4});
  Optimizer at_once(rule, expected);
  unsigned seed = 1;
  for (Index step = 0; step < 3; ++step) {
    for (int micro = 0; micro < 4; ++micro) {
      add_gradients(model, seed);
      add_gradients(expected, seed);
      ++seed;
      const auto before = model;
      CHECK(optimizer.step(model) == (micro == 3));
      if (micro == 3) break;
      CHECK(same_values(model, before));
      CHECK(same_gradients(model, before));
      CHECK(optimizer.steps() == step);
    }
    for (auto& tensor : expected.list) {
      tensor.gradient /= 4;
    }
    at_once.step(expected);
    CHECK(same_values(model, expected));  // a quarter is exact
    CHECK(gradient_norm(model) == 0);
    CHECK(optimizer.steps() == step + 1);
  }
}

TEMPLATE_TEST_CASE("an optimizer goes on from the moments and the progress of another", "", float,
                   double) {
  using Scalar = TestType;
  const AdamW rule{.learning_rate = 0.01, .weight_decay = 0.1};
  const OptimizerOptions options{.schedule = {.warmup_steps = 4}, .accumulation = 3};
  auto model = make_model<Scalar>();
  Optimizer optimizer(rule, model, options);
  run(model, optimizer, 1, 8);  // two updates, two calls since
  CHECK(optimizer.pending() == 2);

  auto again = model;
  Optimizer resumed(rule, again, options);
  resumed.set_progress(optimizer.steps(), optimizer.pending());
  std::map<std::string, Eigen::Array<Scalar, Eigen::Dynamic, Eigen::Dynamic>> moments;
  optimizer.visit_state([&](const std::string& name, auto& state) { moments[name] = state; });
  CHECK(moments.size() == model.list.size());
  resumed.visit_state([&](const std::string& name, auto& state) { state = moments.at(name); });
  run(model, optimizer, 9, 10);
  run(again, resumed, 9, 10);
  CHECK(same_values(again, model));
  CHECK(same_gradients(again, model));
}

TEST_CASE("progress that cannot be is refused and leaves what was") {
  auto model = make_model<double>();
  Optimizer optimizer(AdamW{}, model, OptimizerOptions{.accumulation = 3});
  run(model, optimizer, 1, 4);
  CHECK_THROWS_AS(optimizer.set_progress(-1, 0), ArgumentError);
  CHECK_THROWS_AS(optimizer.set_progress(5, -1), ArgumentError);
  CHECK_THROWS_AS(optimizer.set_progress(5, 3), ArgumentError);
  CHECK(optimizer.steps() == 1);
  CHECK(optimizer.pending() == 1);
}

TEST_CASE("the schedule counts updates, not calls") {
  auto model = make_model<double>();
  Optimizer optimizer(Sgd{.learning_rate = 0.5}, model,
                      {.schedule = {.decay = Decay::linear, .warmup_steps = 2, .total_steps = 4},
                       .accumulation = 2});
  for (const double factor : {0.5, 1.0, 1.0, 0.5, 0.0, 0.0}) {
    auto expected = model;
    for (auto& tensor : expected.list) {
      tensor.value.array() -= factor * 0.5 * 3;  // 3: the mean of 2 and 4
    }
    for (const double gradient : {2.0, 4.0}) {
      for (auto& tensor : model.list) {
        tensor.gradient.array() += gradient;
      }
      optimizer.step(model);
    }
    CHECK(distance(model, expected) < 1e-15);
  }
}

TEMPLATE_TEST_CASE("clipping scales all gradients together down to the bound", "", float, double) {
  using Scalar = TestType;
  auto model = make_model<Scalar>();
  const auto start = model;
  Optimizer optimizer(Sgd{.learning_rate = 1}, model, OptimizerOptions{.clip_norm = 2});
  add_gradients(model, 1);
  scale_gradients(model, 10);
  auto expected = model;
  optimizer.step(model);

  // As PyTorch's clip_grad_norm_, by the bound / (norm + 1e-6).
  for (auto& tensor : expected.list) {
    tensor.value -= static_cast<Scalar>(2 / (10 + 1e-6)) * tensor.gradient;
  }
  CHECK(distance(model, expected) < 10 * std::numeric_limits<Scalar>::epsilon());
  double square = 0;
  for (std::size_t i = 0; i < model.list.size(); ++i) {
    square += (model.list[i].value - start.list[i].value).template cast<double>().squaredNorm();
  }
  CHECK(std::abs(std::sqrt(square) - 2) < 1e-6);
}

TEST_CASE("a gradient within the bound is not clipped, bit for bit") {
  auto model = make_model<double>();
  auto expected = make_model<double>();
  const Adam rule;
  Optimizer clipping(rule, model, OptimizerOptions{.clip_norm = 10});
  Optimizer plain(rule, expected);
  for (unsigned step = 1; step <= 3; ++step) {
    add_gradients(model, step);
    scale_gradients(model, 9.99);
    for (std::size_t i = 0; i < model.list.size(); ++i) {
      expected.list[i].gradient = model.list[i].gradient;
    }
    clipping.step(model);
    plain.step(expected);
    CHECK(same_values(model, expected));
  }
}

TEST_CASE("what is clipped is the mean of the accumulated gradients") {
  const Sgd rule{.learning_rate = 1};
  const OptimizerOptions options{.clip_norm = 2, .accumulation = 4};
  auto model = make_model<double>();
  auto expected = model;

  // The sum has norm 6, above the bound; the mean has 1.5, within.
  Optimizer optimizer(rule, model, options);
  for (const double norm : {1.0, 2.0, 3.0, 6.0}) {
    if (norm == 1) add_gradients(model, 1);
    scale_gradients(model, norm);
    optimizer.step(model);
  }
  add_gradients(expected, 1);
  scale_gradients(expected, 1.5);
  for (auto& tensor : expected.list) {
    tensor.value -= tensor.gradient;
    tensor.gradient.setZero();
  }
  CHECK(distance(model, expected) < 1e-14);

  // The mean has norm 3.
  for (const double norm : {1.0, 2.0, 3.0, 12.0}) {
    if (norm == 1) add_gradients(model, 1);
    scale_gradients(model, norm);
    optimizer.step(model);
  }
  add_gradients(expected, 1);
  scale_gradients(expected, 3 * 2 / (3 + 1e-6));
  for (auto& tensor : expected.list) {
    tensor.value -= tensor.gradient;
  }
  CHECK(distance(model, expected) < 1e-14);
}

TEST_CASE("a zero gradient passes through clipping") {
  auto model = make_model<double>();
  const auto start = model;
  Optimizer optimizer(Sgd{.momentum = 0.5}, model, OptimizerOptions{.clip_norm = 1e-9});
  CHECK(optimizer.step(model));
  CHECK(same_values(model, start));
}

TEMPLATE_TEST_CASE("with clipping, a gradient that is not finite changes nothing", "", float,
                   double) {
  using Scalar = TestType;
  const AdamW rule{.learning_rate = 0.01};
  const OptimizerOptions options{.clip_norm = 1};
  auto model = make_model<Scalar>();
  auto expected = make_model<Scalar>();
  Optimizer optimizer(rule, model, options);
  Optimizer untouched(rule, expected, options);
  run(model, optimizer, 1, 2);
  run(expected, untouched, 1, 2);

  for (const double bad : {not_a_number, infinite, -infinite}) {
    add_gradients(model, 3);
    model.list[2].gradient(1, 1) = static_cast<Scalar>(bad);
    const auto before = model;
    const std::string message = test::message_of<NonFiniteError>([&] { optimizer.step(model); });
    CHECK(test::contains(message, "'fc2.weight'"));
    CHECK(same_values(model, before));
    CHECK(same_gradients(model, before));
    CHECK(optimizer.steps() == 2);
    loraplus::zero_gradients(model);
  }

  // The moments are untouched too: both go the same way.
  run(model, optimizer, 4, 3);
  run(expected, untouched, 4, 3);
  CHECK(same_values(model, expected));
}

TEMPLATE_TEST_CASE("without clipping, a NaN stays in its coefficient", "", float, double) {
  using Scalar = TestType;
  const AdamW rule{.learning_rate = 0.01};
  auto model = make_model<Scalar>();
  auto expected = make_model<Scalar>();
  Optimizer optimizer(rule, model);
  Optimizer untouched(rule, expected);
  for (unsigned step = 1; step <= 3; ++step) {
    add_gradients(model, step);
    add_gradients(expected, step);
    if (step == 2) model.list[2].gradient(1, 1) = std::numeric_limits<Scalar>::quiet_NaN();
    CHECK(optimizer.step(model));
    CHECK(untouched.step(expected));
  }
  CHECK(std::isnan(model.list[2].value(1, 1)));
  model.list[2].value(1, 1) = expected.list[2].value(1, 1);
  CHECK(same_values(model, expected));
}

TEST_CASE("a model other than that of construction is refused and left alone") {
  const Adam rule{.learning_rate = 0.01};
  auto model = make_model<double>();
  auto expected = make_model<double>();
  Optimizer optimizer(rule, model);
  Optimizer untouched(rule, expected);
  run(model, optimizer, 1, 2);
  run(expected, untouched, 1, 2);

  const auto check_refused = [&](Tensors<double>& other, const std::string& part) {
    add_gradients(other, 7);
    const auto before = other;
    const std::string message = test::message_of<StateError>([&] { optimizer.step(other); });
    INFO(message);
    CHECK(test::contains(message, part));
    CHECK(same_values(other, before));
    CHECK(same_gradients(other, before));
    CHECK(optimizer.steps() == 2);
  };
  auto shorter = model;
  shorter.list.pop_back();
  check_refused(shorter, "3 parameters, at construction it had 4");
  auto longer = model;
  longer.add("fc3.weight", Role::weight, 2, 2);
  check_refused(longer, "5 parameters, at construction it had 4");
  auto wider = model;
  wider.list[2].value.setZero(2, 5);
  wider.list[2].gradient.setZero(2, 5);
  check_refused(wider, "'fc2.weight' has 10 coefficients, at construction 'fc2.weight' had 6");
  Tensors<double> empty;
  check_refused(empty, "0 parameters");

  run(model, optimizer, 3, 2);
  run(expected, untouched, 3, 2);
  CHECK(same_values(model, expected));
}

TEST_CASE("a refused model does not count as an accumulated call") {
  auto model = make_model<double>();
  auto other = model;
  other.list.pop_back();
  Optimizer optimizer(Sgd{}, model, OptimizerOptions{.accumulation = 2});
  CHECK_THROWS_AS(optimizer.step(other), StateError);
  CHECK_FALSE(optimizer.step(model));
  CHECK(optimizer.step(model));
}

TEST_CASE("a model without parameters is stepped in vain") {
  Tensors<float> model;
  Optimizer optimizer(Adam{}, model, OptimizerOptions{.clip_norm = 1});
  CHECK(optimizer.step(model));
  CHECK(optimizer.steps() == 1);
  CHECK(optimizer.state_bytes() == 0);
}

TEST_CASE("an override by role moves those parameters into a group that inherits the rest") {
  auto model = make_model<double>();
  const Sgd rule{.learning_rate = 0.5, .weight_decay = 0.25};
  const Optimizer optimizer(rule, model,
                            {.overrides = {{.role = Role::bias, .weight_decay = 0.0}}});
  REQUIRE(optimizer.groups().size() == 2);
  CHECK(optimizer.groups()[0].parameters == Names{"fc1.weight", "fc2.weight"});
  const ParameterGroup& biases = optimizer.groups()[1];
  CHECK(biases.name == "bias of all");
  CHECK(biases.learning_rate == 0.5);
  CHECK(biases.weight_decay == 0);
  CHECK(biases.parameters == Names{"fc1.bias", "fc2.bias"});
}

TEST_CASE("an override by role that takes from two groups makes one out of each") {
  auto model = make_model<double>();
  const Optimizer optimizer(Sgd{}, model,
                            {.overrides = {{.parameter = "fc1.bias", .learning_rate = 0.25},
                                           {.role = Role::bias, .weight_decay = 0.5}}});
  REQUIRE(optimizer.groups().size() == 4);
  CHECK(optimizer.groups()[1].parameters.empty());
  CHECK(optimizer.groups()[2].name == "bias of fc1.bias of all");
  CHECK(optimizer.group_of("fc1.bias").learning_rate == 0.25);
  CHECK(optimizer.group_of("fc1.bias").weight_decay == 0.5);
  CHECK(optimizer.groups()[3].name == "bias of all");
  CHECK(optimizer.group_of("fc2.bias").learning_rate == Sgd{}.learning_rate);
}

TEST_CASE("a model of the same sizes and other roles is refused, and both roles are named") {
  auto model = make_model<double>();
  Optimizer optimizer(Sgd{}, model);
  model.list[2].role = Role::lora_a;
  const std::string message = test::message_of<StateError>([&] { optimizer.step(model); });
  CHECK(test::contains(message, "'fc2.weight'"));
  CHECK(test::contains(message, "its role is lora_a, it was weight"));
  CHECK(optimizer.steps() == 0);
}

TEST_CASE("after a refused gradient the next accumulation begins anew") {
  auto model = make_model<double>();
  Optimizer optimizer(Sgd{.learning_rate = 1}, model, {.clip_norm = 100, .accumulation = 2});
  add_gradients(model, 1);
  CHECK_FALSE(optimizer.step(model));
  model.list[0].gradient(0, 0) = not_a_number;
  CHECK_THROWS_AS(optimizer.step(model), NonFiniteError);
  loraplus::zero_gradients(model);
  add_gradients(model, 2);
  CHECK_FALSE(optimizer.step(model));
  CHECK(optimizer.step(model));
  CHECK(optimizer.steps() == 1);
}

TEST_CASE("an override by full name moves that parameter alone") {
  auto model = make_model<double>();
  const Sgd rule{.learning_rate = 0.5, .weight_decay = 0.25};
  const Optimizer optimizer(rule, model,
                            {.overrides = {{.parameter = "fc2.weight", .learning_rate = 0.125}}});
  REQUIRE(optimizer.groups().size() == 2);
  CHECK(optimizer.groups()[0].parameters == Names{"fc1.weight", "fc1.bias", "fc2.bias"});
  const ParameterGroup& group = optimizer.groups()[1];
  CHECK(group.name == "fc2.weight of all");
  CHECK(group.learning_rate == 0.125);
  CHECK(group.weight_decay == 0.25);
  CHECK(group.parameters == Names{"fc2.weight"});
}

TEST_CASE("a later override wins over an earlier one and keeps what it does not set") {
  auto model = make_model<double>();
  const GroupOverride biases{.role = Role::bias, .learning_rate = 0.125, .weight_decay = 0.0};
  const GroupOverride one{.parameter = "fc1.bias", .learning_rate = 2.0};
  const GroupOverride other{.parameter = "fc2.bias", .weight_decay = 0.5};
  const Sgd rule{.learning_rate = 0.5, .weight_decay = 0.25};
  const Optimizer role_first(rule, model, {.overrides = {biases, one, other}});
  CHECK(role_first.group_of("fc1.bias").learning_rate == 2);
  CHECK(role_first.group_of("fc1.bias").weight_decay == 0);
  CHECK(role_first.group_of("fc2.bias").learning_rate == 0.125);
  CHECK(role_first.group_of("fc2.bias").weight_decay == 0.5);
  CHECK(role_first.group_of("fc2.bias").parameters == Names{"fc2.bias"});

  const Optimizer role_last(rule, model, {.overrides = {one, biases}});
  CHECK(role_last.group_of("fc1.bias").learning_rate == 0.125);
  CHECK(role_last.group_of("fc1.bias").weight_decay == 0);
  CHECK(role_last.group_of("fc2.bias").learning_rate == 0.125);
  for (const ParameterGroup& group : role_last.groups()) {
    if (group.learning_rate == 2) CHECK(group.parameters.empty());
  }
}

TEST_CASE("a step moves each parameter with the settings of its group") {
  auto model = make_model<double>();
  Optimizer optimizer(
      Sgd{.learning_rate = 0.5, .weight_decay = 0.25}, model,
      {.overrides = {{.role = Role::bias, .learning_rate = 0.125, .weight_decay = 0.0},
                     {.parameter = "fc2.weight", .learning_rate = 0.0}}});
  add_gradients(model, 1);
  const auto before = model;
  optimizer.step(model);
  const auto moved = [&](std::size_t i, double rate, double decay) -> Matrix<double> {
    const auto& tensor = before.list[i];
    return tensor.value - rate * (tensor.gradient + decay * tensor.value);
  };
  CHECK(test::relative_distance(model.list[0].value, moved(0, 0.5, 0.25)) < 1e-15);
  CHECK(test::relative_distance(model.list[1].value, moved(1, 0.125, 0)) < 1e-15);
  CHECK(test::same_bits(model.list[2].value, before.list[2].value));
  CHECK(test::relative_distance(model.list[3].value, moved(3, 0.125, 0)) < 1e-15);
}

TEST_CASE("an override of nothing names what there is") {
  const std::string list = "fc1.weight, fc1.bias, fc2.weight, fc2.bias";
  const std::string by_name = refusal(Sgd{}, {.overrides = {{.parameter = "fc3.weight"}}});
  CHECK(test::contains(by_name, "'fc3.weight'"));
  CHECK(test::contains(by_name, list));
  const std::string by_role = refusal(Sgd{}, {.overrides = {{.role = Role::lora_b}}});
  CHECK(test::contains(by_role, "'lora_b'"));
  CHECK(test::contains(by_role, list));
  // A name is the full one.
  CHECK(test::contains(refusal(Sgd{}, {.overrides = {{.parameter = "weight"}}}), list));
}

TEST_CASE("an override tells its parameters by role or by name, not by both or none") {
  const std::string message = "GroupOverride: set either role or parameter";
  CHECK(refusal(Sgd{}, {.overrides = {{.learning_rate = 1.0}}}) == message);
  CHECK(refusal(Sgd{}, {.overrides = {{.role = Role::bias, .parameter = "fc1.bias"}}}) == message);
}

TEST_CASE("group_of finds a parameter by its full name and lists the names otherwise") {
  auto model = make_model<double>();
  const Optimizer optimizer(Sgd{}, model);
  CHECK(&optimizer.group_of("fc2.bias") == optimizer.groups().data());
  for (const std::string unknown : {"fc3.bias", "fc2", "bias", ""}) {
    const std::string message =
        test::message_of<ArgumentError>([&] { optimizer.group_of(unknown); });
    CHECK(test::contains(message, "'" + unknown + "'"));
    CHECK(test::contains(message, "fc1.weight, fc1.bias, fc2.weight, fc2.bias"));
  }
}

TEMPLATE_TEST_CASE("state_bytes counts the moments", "", float, double) {
  using Scalar = TestType;
  auto model = make_model<Scalar>();
  const std::size_t once = (12 + 3 + 6 + 2) * sizeof(Scalar);
  CHECK(Optimizer(Sgd{}, model).state_bytes() == 0);
  CHECK(Optimizer(Sgd{.momentum = 0.5}, model).state_bytes() == once);
  CHECK(Optimizer(Adam{}, model).state_bytes() == 2 * once);
  CHECK(Optimizer(AdamW{}, model).state_bytes() == 2 * once);
}

TEST_CASE("an optimizer names an option that is out of its range") {
  for (const double bad : {0.0, -1.0, not_a_number, -infinite}) {
    CHECK(test::contains(refusal(Sgd{}, {.clip_norm = bad}), "clip_norm"));
  }
  for (const Index bad : {0, -1}) {
    CHECK(test::contains(refusal(Sgd{}, {.accumulation = bad}), "accumulation"));
  }
  CHECK(test::contains(refusal(Sgd{}, {.schedule = {.warmup_steps = -1}}), "warmup_steps"));
  CHECK(test::contains(refusal(Sgd{}, {.schedule = {.decay = Decay::cosine}}), "total_steps"));
  for (const double bad : {-1.0, not_a_number, infinite}) {
    const std::string rate =
        refusal(Sgd{}, {.overrides = {{.role = Role::bias, .learning_rate = bad}}});
    CHECK(test::contains(rate, "GroupOverride: the learning rate"));
    const std::string decay =
        refusal(Sgd{}, {.overrides = {{.role = Role::bias, .weight_decay = bad}}});
    CHECK(test::contains(decay, "GroupOverride: the weight decay"));
  }
}

TEST_CASE("an optimizer validates its rule") {
  CHECK(test::contains(refusal(Sgd{.learning_rate = -1}, {}), "Sgd: the learning rate"));
  CHECK(test::contains(refusal(Adam{.beta2 = 1}, {}), "Adam: beta2"));
  CHECK(test::contains(refusal(AdamW{.epsilon = -1}, {}), "AdamW: epsilon"));
}
