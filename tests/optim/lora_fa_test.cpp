#include <Eigen/LU>
#include <loraplus/adapter/lora_embedding.hpp>
#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/nn/adapt.hpp>
#include <loraplus/nn/sequential.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_fa.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/optim/optimizer.hpp>
#include <loraplus/optim/riemannian.hpp>
#include <loraplus/optim/sgd.hpp>
#include <loraplus/train/training_step.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::AdamW;
using loraplus::ArgumentError;
using loraplus::FactorPair;
using loraplus::GramSolver;
using loraplus::Index;
using loraplus::LoraFa;
using loraplus::LoraLinear;
using loraplus::Matrix;
using loraplus::Optimizer;
using loraplus::RowMajorMatrix;
using loraplus::Sgd;
using loraplus::SharedWeight;

namespace {

LoraLinear<SharedWeight<double>> make_layer(Index out, Index in, Index rank, double alpha) {
  std::mt19937_64 generator{1};
  const SharedWeight<double> weight(test::random_matrix<double>(out, in, 1));
  return {weight, {.rank = rank, .alpha = alpha}, generator};
}

}  // namespace

// The vector of PEFT's optimizer: A = [1 0 2; 0 1 0], gB = [1 2; 3 4], s = 2. Its AdamW adds
// epsilon to the moment before that is corrected; ours after, as torch: at the first step the
// epsilons differ by the root of 1 - beta2.
TEST_CASE("LoRA-FA: the gradient and the first step are PEFT's") {
  RowMajorMatrix<double> a(2, 3), a_gradient(2, 3), gradient(2, 2);
  a << 1, 0, 2, 0, 1, 0;
  Matrix<double> b = Matrix<double>::Zero(2, 2), b_gradient(2, 2);
  b_gradient << 1, 2, 3, 4;
  const LoraFa rule{
      AdamW{.learning_rate = 0.01, .epsilon = 1e-6 / std::sqrt(1 - 0.999), .weight_decay = 0}};
  FactorPair<double> pair{
      {a.data(), 2, 3}, {b.data(), 2, 2}, {a_gradient.data(), 2, 3}, {b_gradient.data(), 2, 2}, 2};
  GramSolver solver(2);
  REQUIRE(rule.precondition(pair, solver));
  Matrix<double> expected(2, 2);
  expected << 0.05, 0.5, 0.15, 1;
  CHECK(test::relative_distance(b_gradient, expected) < 1e-8);

  auto layer = make_layer(2, 3, 2, 4);  // s = 4 / 2
  layer.set_factors(a, b);
  Optimizer optimizer(rule, layer);
  layer.visit_parameters([&](auto parameter) {
    if (parameter.role == loraplus::Role::lora_b) {
      parameter.gradient << 1, 3, 2, 4;  // column by column
    } else {
      parameter.gradient.setOnes();
    }
  });
  optimizer.step(layer);
  expected << -0.009993679442, -0.009999367584, -0.009997892259, -0.009999683782;
  CHECK(test::relative_distance(layer.factors().b(), expected) < 1e-9);
  CHECK(test::same_bits(layer.factors().a(), a));
  CHECK(layer.factors().a_gradient().isZero(0));  // cleared all the same
}

// With B = 0 and r >= the rank of the gradient in A's space, the change of W + s B A by one step of
// gradient descent is the gradient of W projected onto the rows of A: whatever s and the size of A.
TEST_CASE("LoRA-FA: under SGD the change of W is full fine-tuning's, projected onto A") {
  for (const double alpha : {1.0, 6.0}) {
    auto layer = make_layer(5, 7, 3, alpha);
    const RowMajorMatrix<double> a = layer.factors().a() * alpha;
    layer.set_factors(a, layer.factors().b());
    Optimizer optimizer(LoraFa{Sgd{.learning_rate = 0.1}, 1e-12}, layer);
    auto cache = layer.make_cache(9);
    const auto x = test::random_matrix<double>(7, 9, 2), dy = test::random_matrix<double>(5, 9, 3);
    Matrix<double> y(5, 9);
    layer.forward(x, y, cache);
    layer.backward(x, dy, cache);
    optimizer.step(layer);
    const Matrix<double> change = layer.merged_weight() - loraplus::to_matrix(layer.weight());
    const Matrix<double> gram_inverse = (a * a.transpose()).inverse();
    const Matrix<double> projected = -0.1 * dy * x.transpose() * a.transpose() * gram_inverse * a;
    CHECK(test::relative_distance(change, projected) < 1e-9);
  }
}

TEST_CASE("LoRA-FA: A keeps its bits, B learns, and A holds no optimizer state") {
  std::mt19937_64 generator{3};
  const auto network = loraplus::make_mlp<float>({6, 20, 4}, loraplus::Activation::relu, generator);
  auto adapted =
      loraplus::adapt(network, {.lora = {.rank = 2, .bias = loraplus::BiasMode::all}}, generator);
  const auto& layer = *adapted.layer("fc1").get_if<LoraLinear<loraplus::PackedWeight<float>>>();
  const RowMajorMatrix<float> a = layer.factors().a();
  loraplus::LoraPlus optimizer(LoraFa{AdamW{.learning_rate = 1e-2}}, {.ratio = 2}, adapted);
  Index trained = 0;
  adapted.visit_parameters(
      [&](const auto& p) { trained += p.role == loraplus::Role::lora_a ? 0 : p.size(); });
  CHECK(optimizer.state_bytes() == static_cast<std::size_t>(trained) * 2 * sizeof(float));
  const auto x = test::random_matrix<float>(6, 8, 2);
  const std::vector<int> labels{0, 1, 2, 3, 0, 1, 2, 3};
  loraplus::TrainingStep train(adapted, 8);
  const double first = train(adapted, optimizer, x, labels, generator);
  double last = first;
  for (int step = 0; step < 30; ++step) {
    last = train(adapted, optimizer, x, labels, generator);
  }
  CHECK(test::same_bits(layer.factors().a(), a));
  CHECK(layer.factors().b().norm() > 0.01F);
  CHECK(last < 0.7 * first);
}

TEST_CASE("LoRA-FA refuses a regularization that is not positive, and its rule's bad settings") {
  auto layer = make_layer(2, 3, 1, 1);
  const auto refusal = [&](const LoraFa<AdamW>& rule) {
    return test::message_of<ArgumentError>([&] { Optimizer(rule, layer); });
  };
  for (const double bad : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
    CHECK(test::contains(refusal({AdamW{}, bad}), "LoraFa: the regularization"));
  }
  CHECK(test::contains(refusal({AdamW{.beta1 = 1}}), "beta1"));
}

TEST_CASE(
    "K12: LoRA-FA and Riemannian pair A and B by adapter, a DoRA magnitude between two or not") {
  std::mt19937_64 generator{1};
  const auto make = [&] {
    return loraplus::LoraLinear{
        loraplus::SharedWeight<double>(test::random_matrix<double>(4, 4, 1)),
        {.rank = 2, .initialization = loraplus::Initialization::both_uniform, .dora = true},
        generator};
  };
  loraplus::Sequential network(make(), make());
  loraplus::Optimizer optimizer{loraplus::LoraFa<loraplus::Sgd>{{.learning_rate = 0.1}}, network};
  const auto x = test::random_matrix<double>(4, 6, 2), dy = test::random_matrix<double>(4, 6, 3);
  auto cache = network.make_cache(6);
  Matrix<double> y(4, 6);
  network.forward(x, y, cache);
  network.backward(x, dy, cache);
  // By hand for the second layer: gB (A A' + d I)^-1 / s^2.
  const auto& layer = network.get<1>();
  const RowMajorMatrix<double> a = layer.factors().a();
  const double s = layer.scaling();
  const Matrix<double> gram =
      a * a.transpose() + optimizer.rule().regularization * Matrix<double>::Identity(2, 2);
  const Matrix<double> expected =
      layer.factors().b() - 0.1 / (s * s) * layer.factors().b_gradient() * gram.inverse();
  const loraplus::Vector<double> m =
      layer.magnitude()->values() - 0.1 * layer.magnitude()->gradient();
  optimizer.step(network);
  CHECK(test::relative_distance(layer.factors().b(), expected) < 1e-12);
  CHECK(test::relative_distance(layer.magnitude()->values(), m) < 1e-14);
  CHECK(test::same_bits(layer.factors().a(), a));
}

namespace {

/// An embedding and a linear layer, with DoRA or without.
struct WordModel {
  using Scalar = double;

  loraplus::LoraEmbedding<SharedWeight<double>> words;
  LoraLinear<SharedWeight<double>> layer;
  std::vector<Index> tokens{3, 0, 5, 3};

  explicit WordModel(const loraplus::LoraOptions& of_words) : WordModel(of_words, {}) {}

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    visit_part("words", words, visit);
    visit_part("layer", layer, visit);
  }

  /// The gradients of both layers by themselves.
  void backward() {
    auto cache = words.make_cache(4);
    Matrix<double> y(5, 4);
    words.forward(tokens, y, cache);
    words.backward(tokens, test::random_matrix<double>(5, 4, 4), cache);
    auto other = layer.make_cache(4);
    Matrix<double> out(3, 4);
    layer.forward(y, out, other);
    layer.backward(y, test::random_matrix<double>(3, 4, 6), other);
  }

 private:
  WordModel(const loraplus::LoraOptions& of_words, std::mt19937_64 generator)
      : words(SharedWeight<double>(test::random_matrix<double>(5, 6, 1)), of_words, generator),
        layer(SharedWeight<double>(test::random_matrix<double>(3, 5, 2)),
              {.rank = 3, .alpha = 6, .initialization = loraplus::Initialization::both_uniform},
              generator) {}
};

constexpr auto both_drawn = loraplus::Initialization::both_uniform;

}  // namespace

TEST_CASE("O9: LoRA-FA steps on the adapter of an embedding, by its own scaling") {
  for (const bool dora : {false, true}) {
    for (const auto scaling : {loraplus::Scaling::standard, loraplus::Scaling::rank_stabilized}) {
      WordModel model(
          {.rank = 2, .alpha = 3, .scaling = scaling, .initialization = both_drawn, .dora = dora});
      const double s = model.words.scaling();
      CHECK(s == 3 / (scaling == loraplus::Scaling::standard ? 2.0 : std::sqrt(2.0)));
      Optimizer optimizer(LoraFa{Sgd{.learning_rate = 0.1}}, model);
      CHECK(optimizer.state_bytes() == 0);
      model.backward();
      const RowMajorMatrix<double> a = model.words.factors().a(),
                                   other_a = model.layer.factors().a();
      // By hand: gB (A A' + d I)^-1 / s^2.
      const auto stepped = [](const loraplus::LowRank<double>& f) -> Matrix<double> {
        const Matrix<double> gram = f.a() * f.a().transpose();
        const double square = f.scaling() * f.scaling();
        return f.b() - 0.1 / square * f.b_gradient() * gram.inverse();
      };
      const Matrix<double> b = stepped(model.words.factors()),
                           other_b = stepped(model.layer.factors());
      optimizer.step(model);
      CHECK(test::relative_distance(model.words.factors().b(), b) < 1e-6);  // without d
      CHECK(test::relative_distance(model.layer.factors().b(), other_b) < 1e-6);
      CHECK(test::same_bits(model.words.factors().a(), a));
      CHECK(test::same_bits(model.layer.factors().a(), other_a));
      CHECK(model.words.factors().a_gradient().isZero(0));
    }
  }
}

TEST_CASE("O9: LoRA-FA holds no moments for the A of an embedding, and B keeps on learning") {
  WordModel model({.rank = 2, .alpha = 3, .initialization = both_drawn});
  loraplus::LoraPlus optimizer(LoraFa{AdamW{.learning_rate = 1e-2}},
                               {.ratio = 2, .embedding_learning_rate = 1e-2}, model);
  CHECK(optimizer.state_bytes() == (5 * 2 + 3 * 3) * 2 * sizeof(double));  // of each B two
  CHECK(optimizer.group_of("words.lora_embedding_B").name == "embedding");
  const RowMajorMatrix<double> a = model.words.factors().a();
  const Matrix<double> b = model.words.factors().b();
  for (int step = 0; step < 5; ++step) {
    model.backward();
    optimizer.step(model);
  }
  CHECK(test::same_bits(model.words.factors().a(), a));
  CHECK((model.words.factors().b() - b).cwiseAbs().minCoeff() > 1e-3);
}

TEST_CASE("LoRA-FA refuses an A of zero, with which nothing would be learned") {
  WordModel model({.rank = 2});  // A = 0, as embeddings have it
  const auto message = test::message_of<ArgumentError>([&] { Optimizer(LoraFa{Sgd{}}, model); });
  CHECK(test::contains(message, "'words.lora_embedding_B' would never learn"));
  CHECK(test::contains(message, "both_uniform"));
  std::mt19937_64 generator{1};
  LoraLinear layer{SharedWeight<double>(test::random_matrix<double>(3, 5, 2)),
                   {.rank = 2, .initialization = loraplus::Initialization::b_uniform},
                   generator};
  CHECK_THROWS_AS(Optimizer(LoraFa{Sgd{}}, layer), ArgumentError);
}

TEST_CASE("Riemannian leaves the adapter of an embedding to its rule, as PEFT") {
  const auto trained = [](const auto& rule) {
    WordModel model({.rank = 2, .alpha = 3, .initialization = both_drawn});
    Optimizer optimizer(rule, model);
    model.backward();
    optimizer.step(model);
    return model;
  };
  const Sgd sgd{.learning_rate = 0.1};
  const auto plain = trained(sgd), scaled = trained(loraplus::Riemannian{sgd, 1e-2});
  CHECK(test::same_bits(scaled.words.factors().a(), plain.words.factors().a()));
  CHECK(test::same_bits(scaled.words.factors().b(), plain.words.factors().b()));
  CHECK_FALSE(test::same_bits(scaled.layer.factors().b(), plain.layer.factors().b()));
}
