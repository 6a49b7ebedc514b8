// The blocks of docs/concepts.md.
#include <iostream>
#include <loraplus/loraplus.hpp>
#include <vector>

#include "support/catch.hpp"
#include "support/docs.hpp"
#include "support/matrices.hpp"

namespace docs_concepts {

using namespace loraplus;

template <typename Scalar_>
struct Int8Weight {
  using Scalar = Scalar_;

  Eigen::Matrix<std::int8_t, Eigen::Dynamic, Eigen::Dynamic> q;  // out x in
  Vector<Scalar> scale;                                          // out

  Index in_features() const { return q.cols(); }
  Index out_features() const { return q.rows(); }

  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y) const {
    y.setZero();
    for (Index k = 0; k < q.cols(); ++k) {
      const auto column = q.col(k).template cast<Scalar>();
      for (Index sample = 0; sample < x.cols(); ++sample) {
        y.col(sample) += x(k, sample) * column;
      }
    }
    y.array().colwise() *= scale.array();
  }

  void backward(ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx) const {
    for (Index k = 0; k < q.cols(); ++k) {
      const auto column = q.col(k).template cast<Scalar>().cwiseProduct(scale);
      for (Index sample = 0; sample < dy.cols(); ++sample) {
        dx(k, sample) = column.dot(dy.col(sample));
      }
    }
  }
};
static_assert(FrozenWeight<Int8Weight<float>>);

class Gain {
 public:
  using Scalar = double;
  struct Cache {};  // x is given to backward again; what else it needs would be kept here

  explicit Gain(Index features)
      : gain_(Vector<double>::Ones(features)), gradient_(Vector<double>::Zero(features)) {}

  Index in_features() const { return gain_.size(); }
  Index out_features() const { return gain_.size(); }
  Cache make_cache(Index /*largest_batch*/) const { return {}; }

  void forward(ConstMatrixView<double> x, MatrixView<double> y, Cache& /*cache*/) const {
    y = gain_.asDiagonal() * x;
  }

  /// Adds to the gradients: a step may be made of several batches.
  void backward(ConstMatrixView<double> x, ConstMatrixView<double> dy, Cache& /*cache*/) {
    gradient_ += x.cwiseProduct(dy).rowwise().sum();
  }

  /// The same, and overwrites dx.
  void backward(ConstMatrixView<double> x, ConstMatrixView<double> dy, MatrixView<double> dx,
                Cache& cache) {
    backward(x, dy, cache);
    dx = gain_.asDiagonal() * dy;
  }

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    visit(Parameter<double>("gain", Role::norm, gain_, gradient_));
  }

 private:
  Vector<double> gain_;
  Vector<double> gradient_;
};
static_assert(Layer<Gain>);

template <typename Scalar>
Int8Weight<Scalar> make_int8(Index out, Index in) {
  const auto w = test::random_matrix<Scalar>(out, in, 1);
  return {(w * Scalar(20)).template cast<std::int8_t>(),
          Vector<Scalar>::Constant(out, Scalar(0.05))};
}

TEST_CASE("docs/concepts.md: conventions, weights and a layer") {
  std::mt19937_64 rng{1};
  {
    const std::vector<float> rows{1, 2, 3,                       // a sample
                                  4, 5, 6};                      // another
    const Eigen::Map<const Matrix<float>> x(rows.data(), 3, 2);  // features x samples
    CHECK(x(2, 1) == 6);
  }
  const auto w = test::random_matrix<float>(12, 20, 1);
  const auto b = test::random_vector<float>(12, 2);
  const auto x = test::random_matrix<float>(20, 64, 3), dy = test::random_matrix<float>(12, 64, 4);
  Matrix<float> y(12, 64), dx(20, 64), expected(12, 64);
  PackedWeight packed{w, b};         // packed for the product
  WeightView view{w, b};             // your own matrix, where it is
  SharedWeight<float> shared{w, b};  // a matrix of its own
  {
    const auto network = make_mlp<float>({4, 3, 2}, Activation::relu, rng);
    const PackedWeight one_copy{w, b, {.copies = Copies::one}};
    const auto smaller = freeze(network, {.copies = Copies::one});  // in all layers
    CHECK(one_copy.bytes() < packed.bytes());
    CHECK(smaller.layer("fc1").weight().options().copies == Copies::one);
  }
  packed.forward(x, expected);
  view.forward(x, y);
  CHECK(test::same_bits(y, expected));
  shared.forward(x, y);
  CHECK(test::same_bits(y, expected));

  LoraLinear layer{WeightView{w, b}, {.rank = 8, .alpha = 16}, rng};
  auto cache = layer.make_cache(64);  // for batches of up to 64 samples; one for each thread
  layer.forward(x, y, cache);         // evaluation: no dropout
  layer.forward(x, y, cache, rng);    // training: dropout from this generator
  layer.backward(x, dy, cache);       // adds to the gradients of A and B
  layer.backward(x, dy, dx, cache);   // the same, and writes dx
  CHECK(y == expected);
  CHECK(layer.factors().b_gradient().norm() > 0);
}

TEST_CASE("docs/concepts.md: plans") {
  std::mt19937_64 rng{1};
  LoraLinear layer{PackedWeight{test::random_matrix<float>(12, 20, 1)}, {}, rng};
  CHECK(layer.plan(64) == Plan::merged);
  CHECK(layer.plan(8) == Plan::unmerged);
  layer.plan(64);                        // what it chooses for 64 samples
  layer.set_plan(Plan::unmerged);        // or Plan::merged
  layer.set_plan(Plan::automatic, 256);  // with accumulation: the samples of an update
  CHECK(layer.plan(8) == Plan::merged);
}

TEST_CASE("docs/concepts.md: a network and an optimizer") {
  std::mt19937_64 rng{1};
  const auto w1 = test::random_matrix<float>(9, 5, 1), w2 = test::random_matrix<float>(7, 9, 2),
             w3 = test::random_matrix<float>(3, 7, 3);
  const auto b1 = test::random_vector<float>(9, 4), b2 = test::random_vector<float>(7, 5),
             b3 = test::random_vector<float>(3, 6);
  Mlp<Linear<float>> trained({{"fc1", Linear<float>(w1, b1), Activation::relu},
                              {"fc2", Linear<float>(w2, b2), Activation::relu},
                              {"fc3", Linear<float>(w3, b3)}});
  auto network =
      adapt(trained, {.lora = {.rank = 8}, .targets = {"fc1", "fc2"}, .train = {"fc3"}}, rng);
  {
    const auto frozen = freeze(trained);
    auto for_anna = adapt(frozen, {.lora = {.rank = 8}}, rng);  // both stand on the same weights
    auto for_otto = adapt(frozen, {.lora = {.rank = 4}}, rng);
    auto head_only = thaw(frozen, {"fc3"});
    const auto plain = merged(network);  // an Mlp<Linear<float>>
    const auto x = test::random_matrix<float>(5, 4, 7);
    const Matrix<float> y = predict(trained, x);
    CHECK(predict(for_anna, x) == y);
    CHECK(predict(for_otto, x) == y);
    CHECK(predict(plain, x) == y);
    CHECK(parameter_count(head_only) == 24);
    const test::Printed printed;
    auto* adapted =
        network.layer("fc1").get_if<LoraLinear<PackedWeight<float>>>();  // null: not adapted
    std::cout << adapted->factors().a().norm() << '\n';
    for_each_adapter(for_anna, [](auto& layer) { layer.merge(); });
    CHECK(printed.text().size() > 1);
    CHECK(for_anna.layer("fc2").get_if<LoraLinear<PackedWeight<float>>>()->merged());
  }
  const test::Printed printed;
  LoraPlus optimizer{AdamW{.learning_rate = 2e-3}, {.ratio = 4}, network};
  for (const ParameterGroup& group : optimizer.groups()) {
    std::cout << group.name << " at " << group.learning_rate << ":";
    for (const std::string& name : group.parameters) {
      std::cout << ' ' << name;
    }
    std::cout << '\n';
  }
  CHECK(printed.text() ==
        "A at 0.002: fc1.lora_A fc2.lora_A fc3.weight\n"
        "embedding at 1e-06:\n"
        "B at 0.008: fc1.lora_B fc2.lora_B\n"
        "B_no_decay at 0.008: fc3.bias\n");
}

TEST_CASE("docs/concepts.md: a frozen weight of one's own") {
  std::mt19937_64 rng{1};
  const auto [q, scale] = make_int8<double>(6, 10);
  const auto b = test::random_matrix<double>(6, 4, 2), x = test::random_matrix<double>(10, 3, 3),
             dy = test::random_matrix<double>(6, 3, 4);
  const test::Printed printed;
  LoraLinear layer{Int8Weight<double>{q, scale}, {.rank = 4, .alpha = 8}, rng};
  layer.set_factors(layer.factors().a(), b);  // normal numbers, out x 4
  const auto errors = check_gradients(layer, x, dy);
  std::cout << worst(errors).tensor << ": relative error " << worst(errors).relative << '\n';
  CHECK(worst(errors).relative < 1e-8);
  CHECK(errors.back().tensor == "x");

  const auto fc1 = make_int8<float>(8, 5), fc2 = make_int8<float>(2, 8);
  FrozenMlp<Int8Weight<float>> quantised(
      {{"fc1", FrozenLinear(fc1), Activation::relu}, {"fc2", FrozenLinear(fc2)}});
  auto adapted = adapt(quantised, {.lora = {.rank = 4}}, rng);
  CHECK(parameter_count(adapted) == 4 * (5 + 8) + 4 * (8 + 2));
}

TEST_CASE("docs/concepts.md: a layer of one's own") {
  std::mt19937_64 rng{1};
  const auto w = test::random_matrix<double>(16, 5, 1);
  const auto b = test::random_vector<double>(16, 2);
  const auto x = test::random_matrix<double>(5, 4, 3), dy = test::random_matrix<double>(16, 4, 4);
  const test::Printed printed;
  Sequential network{LoraLinear{WeightView{w, b}, {.rank = 4}, rng},
                     ActivationLayer<double>(Activation::tanh, 16), Gain(16)};
  for (const GradientError& error : check_gradients(network, x, dy)) {
    std::cout << error.tensor << ": relative error " << error.relative << '\n';
  }
  LoraPlus optimizer{AdamW{}, {.ratio = 4}, network};
  CHECK(worst(check_gradients(network, x, dy)).relative < 1e-8);
  for (const char* name : {"0.lora_A: ", "0.lora_B: ", "2.gain: ", "x: "}) {
    CHECK(printed.text().find(name) != std::string::npos);
  }
  CHECK(optimizer.group_of("2.gain").name == "B_no_decay");
}

}  // namespace docs_concepts
