// Every kind of adapter learns with every update rule, alone and as LoRA+, or is refused with a
// reason.
#include <functional>
#include <loraplus/adapter/lora_conv_set.hpp>
#include <loraplus/adapter/lora_embedding_set.hpp>
#include <loraplus/frozen/grouped_weight.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/frozen/weight_view.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_fa.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/optim/optimizer.hpp>
#include <loraplus/optim/riemannian.hpp>
#include <loraplus/optim/sgd.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"
#include "support/sparse_weight.hpp"

using loraplus::Adam;
using loraplus::AdamW;
using loraplus::ArgumentError;
using loraplus::BiasMode;
using loraplus::ConvGeometry;
using loraplus::GroupedWeight;
using loraplus::Index;
using loraplus::Initialization;
using loraplus::LoraConv;
using loraplus::LoraConvSet;
using loraplus::LoraEmbedding;
using loraplus::LoraEmbeddingSet;
using loraplus::LoraFa;
using loraplus::LoraLinear;
using loraplus::LoraOptions;
using loraplus::LoraPlus;
using loraplus::LoraSet;
using loraplus::Matrix;
using loraplus::Optimizer;
using loraplus::PackedWeight;
using loraplus::Parameter;
using loraplus::Plan;
using loraplus::Riemannian;
using loraplus::Scaling;
using loraplus::Sgd;
using loraplus::SharedWeight;
using loraplus::WeightView;

namespace {

/// An adapted layer of whatever type with a task: its outputs are to be others.
struct Learner {
  using Scalar = double;
  using Visit = std::function<void(Parameter<double>)>;

  std::string kind;
  std::function<double()> pass;  // forward and backward; the loss
  std::function<void(const Visit&)> visit;

  void visit_parameters(const Visit& use) { visit(use); }
};

/// @param input what the layer takes for a batch of 5 @param trained none, or a generator
template <typename Layer, typename Input, typename... Generator>
Learner learner(const std::string& kind, Layer layer, const Input& input, Generator... generator) {
  const auto kept = std::make_shared<Layer>(std::move(layer));
  const auto cache = std::make_shared<typename Layer::Cache>(kept->make_cache(5));
  const auto pass = [=]() mutable {
    Matrix<double> y(kept->out_features(), 5);
    kept->forward(input, y, *cache, generator...);
    const Matrix<double> error = y - test::random_matrix<double>(y.rows(), 5, 9);
    kept->backward(input, error, *cache);
    return error.squaredNorm();
  };
  return {kind, pass, [=](const Learner::Visit& use) { kept->visit_parameters(use); }};
}

std::vector<Learner> all_kinds() {
  std::mt19937_64 generator{1};
  constexpr auto drawn = Initialization::both_uniform;  // LoRA-FA needs an A that is not zero
  const auto x = test::random_matrix<double>(8, 5, 1);
  const std::vector<Index> tokens{3, 0, 7, 3, 1};
  static const Matrix<double> w = test::random_matrix<double>(6, 8, 2);
  const SharedWeight<double> weight(w, test::random_vector<double>(6, 3));
  const PackedWeight<double> packed(w);
  std::vector<Learner> all;
  const auto add = [&](const std::string& kind, auto layer, const auto& input, auto... training) {
    all.push_back(learner(kind, std::move(layer), input, training...));
  };
  add("linear", LoraLinear{weight, {.rank = 2, .initialization = drawn}, generator}, x);
  add("rank-stabilised",
      LoraLinear{weight, {.rank = 9, .scaling = Scaling::rank_stabilized}, generator}, x);
  add("biases",
      LoraLinear{weight, {.rank = 2, .bias = BiasMode::lora_only, .lora_bias = true}, generator},
      x);
  add("dropout", LoraLinear{weight, {.rank = 2, .dropout = 0.1}, generator}, x, generator);
  add("DoRA", LoraLinear{weight, {.rank = 2, .dora = true}, generator}, x);
  add("groups", LoraLinear{weight, {.rank = 2, .enabled_groups = {true, false, true}}, generator},
      x);
  add("view", LoraLinear{WeightView{w}, {.rank = 2}, generator}, x);
  add("sparse", LoraLinear{test::SparseWeight<double>{w.sparseView()}, {.rank = 2}, generator}, x);
  LoraLinear merged{packed, {.rank = 2}, generator};
  merged.set_plan(Plan::merged);
  add("packed, merged plan", merged, x);

  for (const bool dora : {false, true}) {
    const std::string kind = dora ? ", DoRA" : "";
    const LoraOptions options{.rank = 2, .initialization = drawn, .init_scale = 0.3, .dora = dora};
    add("embedding" + kind, LoraEmbedding{weight, options, generator}, tokens);
    const auto image = test::random_matrix<double>(12, 5, 4);
    const ConvGeometry flat{
        .dimensions = 1, .channels = 2, .width = {.size = 6, .kernel = 4, .padding = 1}};
    add("convolution" + kind, LoraConv{weight, flat, options, generator}, image);
    ConvGeometry grouped = flat;
    grouped.groups = 2;
    const GroupedWeight<SharedWeight<double>> parts(
        {SharedWeight<double>(w.topLeftCorner(3, 4)),
         SharedWeight<double>(w.bottomRightCorner(3, 4))});
    add("convolution in groups" + kind, LoraConv{parts, grouped, options, generator}, image);

    LoraSet set(weight);
    LoraEmbeddingSet embeddings(weight);
    LoraConvSet convs(weight, flat);
    for (const std::string name : {"a", "b"}) {
      set.add(name, options, generator);
      embeddings.add(name, options, generator);
      convs.add(name, options, generator);
    }
    set.set_active({"a", "b"});
    embeddings.set_active({"a", "b"});
    convs.set().set_active({"a", "b"});
    add("set" + kind, set, x);
    add("set of embeddings" + kind, embeddings, tokens);
    add("set of convolutions" + kind, convs, image);
  }
  return all;
}

template <typename Trainer>
void require_learning(Learner& layer, Trainer optimizer) {
  loraplus::zero_gradients(layer);
  const double before = layer.pass();
  double after = before;
  for (int step = 0; step < 100; ++step) {
    optimizer.step(layer);
    after = layer.pass();
  }
  CHECK(after < 0.97 * before);
}

/// @param sees_embeddings whether the adapters of embeddings are pairs to the rule
template <typename Rule>
void require_learning_of_all(const Rule& rule, bool sees_embeddings = true) {
  const double embedding_rate = rule.learning_rate;
  for (const bool plus : {false, true}) {
    for (Learner& layer : all_kinds()) {
      CAPTURE(layer.kind, plus);
      if (!sees_embeddings && test::contains(layer.kind, "embedding")) {
        CHECK(test::contains(test::message_of<ArgumentError>([&] {
                               const Optimizer refused{rule, layer};
                             }),
                             "the model has none with a pair"));
      } else if (plus) {
        require_learning(
            layer, LoraPlus{rule, {.ratio = 4, .embedding_learning_rate = embedding_rate}, layer});
      } else {
        require_learning(layer, Optimizer{rule, layer});
      }
    }
  }
}

}  // namespace

TEST_CASE("every kind of adapter learns by SGD") {
  require_learning_of_all(Sgd{.learning_rate = 1e-4});
}
TEST_CASE("every kind of adapter learns by Adam and AdamW") {
  require_learning_of_all(Adam{.learning_rate = 3e-3});
  require_learning_of_all(AdamW{.learning_rate = 3e-3});
}
TEST_CASE("every kind of adapter learns by LoRA-FA") {
  require_learning_of_all(LoraFa{AdamW{.learning_rate = 3e-3}});
}
TEST_CASE("every kind of adapter learns by Riemannian, which sees no pairs in embeddings alone") {
  require_learning_of_all(Riemannian{AdamW{.learning_rate = 3e-3}, 1e-2}, false);
}
