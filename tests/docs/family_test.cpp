// The blocks of docs/family.md.
#include <loraplus/adapter/add_weighted.hpp>
#include <loraplus/adapter/combine.hpp>
#include <loraplus/adapter/decompose.hpp>
#include <loraplus/adapter/initialize.hpp>
#include <loraplus/io/peft.hpp>
#include <loraplus/io/peft_modules.hpp>
#include <loraplus/loraplus.hpp>
#include <loraplus/nn/adapt_initialized.hpp>

#include "support/catch.hpp"
#include "support/docs.hpp"
#include "support/matrices.hpp"

namespace docs_family {

using namespace loraplus;

/// y for random x.
template <typename L>
Matrix<float> output(const L& layer, Index samples) {
  return predict(layer, test::random_matrix<float>(layer.in_features(), samples, 9));
}

TEST_CASE("docs/family.md: DoRA, biases of B, groups of outputs") {
  std::mt19937_64 rng{1};
  const PackedWeight<float> weight(test::random_matrix<float>(12, 10, 1));
  LoraLinear layer{weight, {.rank = 8, .alpha = 16, .dora = true}, rng};
  LoraLinear biased{weight, {.rank = 8, .lora_bias = true}, rng};
  LoraLinear qkv{
      weight, {.rank = 8, .enabled_groups = {true, false, true}}, rng};  // MergedLinear of loralib
  CHECK(layer.magnitude() != nullptr);
  CHECK(parameter_count(biased) == 8 * (10 + 12) + 12);
  CHECK(parameter_count(qkv) == 2 * 8 * (10 + 4));
}

TEST_CASE("docs/family.md: embeddings, convolutions and their files") {
  const test::InFolder folder("docs_family");
  std::mt19937_64 rng{1};
  const auto table = test::random_matrix<float>(6, 30, 1), w = test::random_matrix<float>(4, 27, 2);
  const std::vector<Index> tokens(64, 7);
  Matrix<float> y(6, 64);
  LoraEmbedding embedding{SharedWeight<float>(table), {.rank = 8}, rng};  // dim x vocabulary
  auto cache = embedding.make_cache(64);
  embedding.forward(tokens, y, cache);  // tokens: 64 of Index; y: dim x 64

  const ConvGeometry geometry{.channels = 3,
                              .height = {.size = 32, .kernel = 3, .padding = 1},
                              .width = {.size = 32, .kernel = 3, .padding = 1}};
  LoraConv conv{PackedWeight<float>(w), geometry, {.rank = 8}, rng};  // w: out x (channels x 3 x 3)
  CHECK(y.col(0) == table.col(7));
  CHECK(conv.out_features() == 4 * 32 * 32);
  {
    PeftModules before;
    before.add("embed", embedding);
    before.add("features.0", conv);
    before.save("adapter", SavePeftOptions{.base_model = "model"});
  }

  PeftModules modules;
  modules.add("embed", embedding);
  modules.add("features.0", conv);
  const auto loaded = modules.load("adapter");  // ranks and scalings become those of the folder
  modules.save("adapter", loaded.config);       // or with SavePeftOptions
  CHECK(loaded.report.complete());
}

TEST_CASE("docs/family.md: many adapters on one weight") {
  std::mt19937_64 rng{1};
  const PackedWeight<float> weight(test::random_matrix<float>(12, 10, 1));
  const LoraLinear trained_layer{
      weight, {.rank = 4, .initialization = Initialization::both_uniform}, rng};
  const Adapter<float> retrained = LoraLinear{weight, {.rank = 2}, rng}.adapter();
  LoraSet set(weight);
  set.add("anna", {.rank = 8}, rng);         // the first becomes active
  set.add("otto", trained_layer.adapter());  // one that a LoraLinear has trained
  set.set_active({"anna", "otto"});          // outputs add up; DoRA scales what is there so far
  set.set_scale("otto", 0.5);                // of its alpha / r; not cumulative
  set.merge({"anna"});             // all or nothing; active ones that are not merged still count
  set.unmerge();                   // exact
  set.replace("otto", retrained);  // of whatever rank
  CHECK(set.active() == std::vector<std::string>{"anna", "otto"});

  const std::vector<std::string> names(64, "otto");
  const auto x = test::random_matrix<float>(10, 64, 2);
  Matrix<float> y(12, 64);
  auto cache = set.make_cache(64);
  set.assign(cache, names);  // a name for each sample
  set.forward(x, y, cache);  // one product of the weight, then each adapter for its samples
  CHECK(y.allFinite());
  add_weighted(set, "sum", {{"anna", 0.7}, {"otto", 0.3}});
  CHECK(set.contains("sum"));
}

TEST_CASE("docs/family.md: many adapters on a convolution") {
  std::mt19937_64 rng{1};
  const ConvGeometry geometry{.channels = 2, .width = {.size = 6, .kernel = 3}};
  const PackedWeight<float> weight(test::random_matrix<float>(4, 6, 1));
  const LoraConv trained_conv{weight, geometry, {.rank = 2}, rng};
  const std::vector<std::string> names(64, "otto");
  LoraConvSet convs(weight, geometry);
  convs.add("anna", {.rank = 8}, rng);
  convs.add("otto", trained_conv);
  auto cache = convs.make_cache(64);
  convs.assign(cache, names);  // a name for each image
  CHECK(convs.set().names() == std::vector<std::string>{"anna", "otto"});
}

TEST_CASE("docs/family.md: many adapters on a network") {
  const test::InFolder folder("docs_family_network");
  std::mt19937_64 rng{1};
  const auto base = freeze(make_mlp<float>({5, 8, 3}, Activation::relu, rng));
  MultiAdapterMlp network(base), other(base);
  network.add("anna", adapt(base, {.lora = {.rank = 2}}, rng));
  network.add("otto", adapt(base, {.lora = {.rank = 3}}, rng));
  for (const std::string& name : network.names()) {
    save_peft(peft_adapter_folder("adapters", name), network.adapted(name));
  }
  for (const std::string& name : peft_adapters("adapters")) {
    other.add(name, load_peft(peft_adapter_folder("adapters", name), base).network);
  }
  CHECK(other.names() == std::vector<std::string>{"anna", "otto"});
  network.set_scale("otto", 0.5);
  network.merge({"anna"});
  network.unmerge();
}

TEST_CASE("docs/family.md: combining, converting") {
  std::mt19937_64 rng{1};
  const PackedWeight<float> weight(test::random_matrix<float>(12, 10, 1));
  const LoraOptions options{.rank = 4, .initialization = Initialization::both_uniform};
  const LoraLinear first{weight, options, rng}, second{weight, options, rng};
  const auto W = test::random_matrix<float>(12, 10, 2),
             W_trained = test::random_matrix<float>(12, 10, 3);

  const Factors<float> a = first.factors().factors(), b = second.factors().factors();
  const std::vector<WeightedFactors<float>> both{{a, 0.7}, {b, 0.3}};
  const Factors<float> sum = combine<float>(both);  // cat: exact, ranks add up
  const Factors<float> small = combine<float>(both, {.type = Combination::svd, .svd_rank = 8});
  const Factors<float> of_difference = decompose(W_trained - W, RankChoice::energy(0.99));
  LoraLinear layer{weight, sum};
  CHECK(layer.rank() == 8);
  CHECK(small.rank() == 8);
  CHECK(of_difference.rank() <= 10);
}

TEST_CASE("docs/family.md: initialisations") {
  std::mt19937_64 rng{1};
  const auto W = test::random_matrix<float>(12, 10, 2);
  {
    const Factors<float> start = pissa(W, 8, 2.0);  // rank, scaling
    LoraLinear layer{PackedWeight<float>(residual(W, start)), start};
    // ... train ...
    const Factors<float> plain =
        to_plain(layer.factors().factors(), start);  // over the untouched W, of twice the rank
    CHECK(plain.rank() == 16);
  }
  const auto network = freeze(make_mlp<float>({10, 9, 8}, Activation::relu, rng));

  const auto initial = adapt(
      network, {}, [](const std::string& /*name*/, const auto& w) { return pissa(w, 8, 2.0); });
  auto trained = initial;
  // ... train ...
  const auto plain = to_plain(network, trained, initial);  // over the untouched network
  CHECK(test::relative_distance(output(plain, 4), output(network, 4)) < 1e-5);
}

}  // namespace docs_family
