// A training step allocates nothing. This test is a program of its own: it makes Eigen's own
// allocations throw, and counts those of the library; with the address sanitizer only Eigen's are
// seen.
#include <stdexcept>

#define EIGEN_RUNTIME_NO_MALLOC
#define eigen_assert(condition) \
  ((condition) ? static_cast<void>(0) : throw std::logic_error("Eigen: " #condition))

#include <loraplus/loraplus.hpp>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/matrices.hpp"
#include "support/sparse_weight.hpp"

namespace {

using namespace loraplus;

/// Runs `step` a few times; none may allocate, neither by operator new nor inside Eigen.
template <typename Step>
void require_no_allocation(Step&& step) {
  step();
  const long before = test::allocations.count;
  Eigen::internal::set_is_malloc_allowed(false);
  for (int i = 0; i < 3; ++i) {
    step();
  }
  Eigen::internal::set_is_malloc_allowed(true);
  CHECK(test::allocations.count == before);
}

std::vector<int> labels(Index n, Index classes) {
  std::vector<int> made;
  for (Index i = 0; i < n; ++i) {
    made.push_back(static_cast<int>(i % classes));
  }
  return made;
}

}  // namespace

TEST_CASE("Eigen's allocations are seen by this test") {
  Eigen::internal::set_is_malloc_allowed(false);
  CHECK_THROWS_AS(Matrix<float>(100, 100), std::logic_error);
  Eigen::internal::set_is_malloc_allowed(true);
}

TEMPLATE_TEST_CASE("a step of an adapted network allocates nothing", "", float, double) {
  using Scalar = TestType;
  struct Shape {
    std::initializer_list<Index> widths;
    Index n;
  };
  const Shape shapes[] = {
      {{20, 48, 33, 10}, 17}, {{20, 48, 33, 10}, 1}, {{3, 2, 2}, 2}, {{784, 256, 256, 10}, 64}};
  for (const Shape& shape : shapes) {
    for (const Activation activation : {Activation::relu, Activation::gelu, Activation::tanh}) {
      for (const BiasMode bias : {BiasMode::none, BiasMode::all}) {
        for (const double dropout : {0.0, 0.1}) {
          std::mt19937_64 generator{1};
          const auto network = make_mlp<Scalar>(shape.widths, activation, generator);
          auto adapted = adapt(network,
                               {.lora = {.rank = 4, .dropout = dropout, .bias = bias},
                                .targets = {"fc1"},
                                .train = {"fc2"}},
                               generator);
          LoraPlus optimizer{AdamW{}, {.ratio = 16}, adapted, {.clip_norm = 1}};
          const auto x = test::random_matrix<Scalar>(adapted.in_features(), shape.n, 2);
          const auto target = labels(shape.n, adapted.out_features());
          TrainingStep train(adapted, shape.n);
          require_no_allocation([&] { train(adapted, optimizer, x, target, generator); });
        }
      }
    }
  }
}

TEST_CASE("a smaller batch, both rules of SGD and dx allocate nothing either") {
  std::mt19937_64 generator{1};
  LoraLinear layer{SharedWeight<float>(test::random_matrix<float>(48, 64, 1)),
                   {.rank = 3, .dropout = 0.1},
                   generator};
  auto cache = layer.make_cache(17);
  const auto x = test::random_matrix<float>(64, 17, 2);
  const auto dy = test::random_matrix<float>(48, 17, 3);
  Matrix<float> y(48, 17), dx(64, 17);
  LoraPlus nesterov{
      Sgd{.momentum = 0.9, .nesterov = true, .weight_decay = 0.1}, {.ratio = 2}, layer};
  Optimizer plain{Sgd{}, layer};
  Optimizer adam{Adam{.weight_decay = 0.1}, layer};
  require_no_allocation([&] {
    for (const Index n : {17, 5, 1}) {
      layer.forward(x.leftCols(n), y.leftCols(n), cache, generator);
      layer.backward(x.leftCols(n), dy.leftCols(n), dx.leftCols(n), cache);
      nesterov.step(layer);
      plain.step(layer);
      adam.step(layer);
    }
  });
}

TEST_CASE("the rules for pairs of factors allocate nothing, at ranks above and below a block") {
  for (const Index rank : {3, 40}) {
    std::mt19937_64 generator{1};
    LoraLinear layer{
        SharedWeight<float>(test::random_matrix<float>(90, 130, 1)), {.rank = rank}, generator};
    auto cache = layer.make_cache(5);
    const auto x = test::random_matrix<float>(130, 5, 2), dy = test::random_matrix<float>(90, 5, 3);
    Matrix<float> y(90, 5);
    Optimizer riemannian{Riemannian{AdamW{}}, layer};
    Optimizer frozen_a{LoraFa{Sgd{}}, layer};
    require_no_allocation([&] {
      layer.forward(x, y, cache);
      layer.backward(x, dy, cache);
      riemannian.step(layer);
      layer.forward(x, y, cache);
      layer.backward(x, dy, cache);
      frozen_a.step(layer);
    });
  }
}

TEST_CASE("a step of every member of the family allocates nothing") {
  std::mt19937_64 generator{1};
  const auto require = [&](auto&& layer, Index n) {
    auto cache = layer.make_cache(n);
    const auto x = test::random_matrix<float>(layer.in_features(), n, 2),
               dy = test::random_matrix<float>(layer.out_features(), n, 3);
    Matrix<float> y = dy, dx = x;
    LoraPlus optimizer{AdamW{}, {.ratio = 4}, layer};
    require_no_allocation([&] {
      layer.forward(x, y, cache, generator);
      layer.backward(x, dy, dx, cache);
      optimizer.step(layer);
    });
  };
  const SharedWeight<float> weight(test::random_matrix<float>(48, 70, 1));
  const PackedWeight<float> packed(test::random_matrix<float>(48, 70, 1));
  for (const double dropout : {0.0, 0.1}) {
    require(LoraLinear{weight, {.rank = 3, .dropout = dropout, .dora = true}, generator}, 9);
    require(LoraLinear{packed, {.rank = 40, .dropout = dropout, .dora = true}, generator}, 9);
    require(LoraLinear{packed, {.rank = 3, .dropout = dropout, .lora_bias = true}, generator}, 9);
    require(LoraLinear{packed,
                       {.rank = 3, .dropout = dropout, .enabled_groups = {true, false, true}},
                       generator},
            9);
  }
  const ConvGeometry geometry{.channels = 7,
                              .height = {.size = 6, .kernel = 2},
                              .width = {.size = 5, .kernel = 5, .padding = 1}};
  require(LoraConv{packed, geometry, {.rank = 3}, generator}, 4);
  LoraSet set(packed);
  set.add("a", {.rank = 3, .dropout = 0.1}, generator);
  set.add("b", {.rank = 5, .dora = true}, generator);
  set.set_active({"a", "b"});
  require(std::move(set), 9);
}

TEST_CASE("embeddings, and samples with adapters of their own, allocate nothing") {
  std::mt19937_64 generator{1};
  LoraEmbedding embedding{
      SharedWeight<float>(test::random_matrix<float>(8, 30, 1)), {.rank = 3}, generator};
  auto cache = embedding.make_cache(4);
  const std::vector<Index> tokens{3, 7, 29, 3};
  const auto dy = test::random_matrix<float>(8, 4, 2);
  Matrix<float> y(8, 4);
  LoraPlus optimizer{AdamW{}, {.ratio = 4}, embedding};
  require_no_allocation([&] {
    embedding.forward(tokens, y, cache);
    embedding.backward(tokens, dy, cache);
    optimizer.step(embedding);
  });
  LoraSet set(SharedWeight<float>(test::random_matrix<float>(8, 30, 1)));
  set.add("a", {.rank = 3}, generator);
  set.add("b", {.rank = 5, .dora = true}, generator);
  auto set_cache = set.make_cache(4);
  set.assign(set_cache, std::vector<std::string>{"b", "a", "__base__", "b"});
  const auto x = test::random_matrix<float>(30, 4, 3);
  require_no_allocation([&] { set.forward(x, y, set_cache); });
}

TEST_CASE("sets for embeddings and convolutions allocate nothing, trained or assigned") {
  std::mt19937_64 generator{1};
  const std::vector<std::string> names{"b", "a", "__base__", "b"};
  LoraEmbeddingSet embeddings(SharedWeight<float>(test::random_matrix<float>(8, 30, 1)));
  const ConvGeometry geometry{.channels = 2,
                              .height = {.size = 4, .kernel = 2},
                              .width = {.size = 4, .kernel = 2, .padding = 1}};
  LoraConvSet convs(SharedWeight<float>(test::random_matrix<float>(3, 8, 1)), geometry);
  const auto add = [&](auto& set) {
    set.add("a", {.rank = 3}, generator);
    set.add("b", {.rank = 5, .dora = true}, generator);
  };
  add(embeddings);
  add(convs);
  embeddings.set_active({"a", "b"});
  convs.set().set_active({"a", "b"});
  const std::vector<Index> tokens{3, 7, 29, 3};
  const auto x = test::random_matrix<float>(convs.in_features(), 4, 3);
  const auto steps = [&](auto& set, const auto& input, auto&... training) {
    const auto dy = test::random_matrix<float>(set.out_features(), 4, 2);
    Matrix<float> y(set.out_features(), 4);
    LoraPlus optimizer{AdamW{}, {.ratio = 4}, set};
    auto cache = set.make_cache(4);
    require_no_allocation([&] {
      set.forward(input, y, cache, training...);
      set.backward(input, dy, cache);
      optimizer.step(set);
    });
    set.assign(cache, names);
    require_no_allocation([&] { set.forward(input, y, cache); });
  };
  steps(embeddings, tokens);
  steps(convs, x, generator);
}

TEST_CASE("a step over a packed weight allocates nothing, in both plans and at any size") {
  struct Shape {
    Index out, in, rank, n;
  };
  for (const Shape& shape : {Shape{33, 47, 3, 5}, {300, 1100, 70, 200}, {1100, 300, 8, 1}}) {
    for (const Copies copies : {Copies::one, Copies::two}) {
      for (const Plan plan : {Plan::unmerged, Plan::merged}) {
        std::mt19937_64 generator{1};
        LoraLinear layer{
            PackedWeight<float>(test::random_matrix<float>(shape.out, shape.in, 1), {}, {copies}),
            {.rank = shape.rank},
            generator};
        layer.set_plan(plan);
        Optimizer optimizer{AdamW{}, layer};
        auto cache = layer.make_cache(shape.n);
        const auto x = test::random_matrix<float>(shape.in, shape.n, 2);
        const auto dy = test::random_matrix<float>(shape.out, shape.n, 3);
        Matrix<float> y(shape.out, shape.n), dx(shape.in, shape.n);
        require_no_allocation([&] {
          layer.forward(x, y, cache);
          layer.backward(x, dy, dx, cache);
          optimizer.step(layer);
        });
      }
    }
  }
}

TEST_CASE("a step over a sparse weight of a user allocates nothing") {
  std::mt19937_64 generator{1};
  LoraLinear layer{test::SparseWeight<double>{test::random_matrix<double>(33, 20, 1).sparseView()},
                   {.rank = 2},
                   generator};
  auto cache = layer.make_cache(9);
  const auto x = test::random_matrix<double>(20, 9, 3);
  Matrix<double> y(33, 9), dx(20, 9);
  require_no_allocation([&] {
    layer.forward(x, y, cache);
    layer.backward(x, y, dx, cache);
  });
}

TEST_CASE("a step of layers composed at compile time, and over views, allocates nothing") {
  std::mt19937_64 generator{1};
  const RowMajorMatrix<double> w = test::random<RowMajorMatrix<double>>(33, 20, 1);
  const auto b = test::random_vector<double>(33, 2);
  Sequential network{
      LoraLinear{WeightView{w, b}, {.rank = 2, .bias = BiasMode::lora_only}, generator},
      ActivationLayer<double>(Activation::silu, 33), Linear<double>(5, 33, generator)};
  Optimizer optimizer{AdamW{}, network};
  const auto x = test::random_matrix<double>(20, 9, 3);
  const auto target = test::random_matrix<double>(5, 9, 4);
  TrainingStep<decltype(network), MeanSquaredError> train(network, 9);
  require_no_allocation([&] { train(network, optimizer, x, target, generator); });
}
