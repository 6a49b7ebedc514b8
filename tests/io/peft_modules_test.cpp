#include <deque>
#include <loraplus/frozen/grouped_weight.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/io/peft_modules.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/matrices.hpp"

using loraplus::ConvGeometry;
using loraplus::FileError;
using loraplus::Index;
using loraplus::LoraConv;
using loraplus::LoraEmbedding;
using loraplus::LoraLinear;
using loraplus::LoraOptions;
using loraplus::Matrix;
using loraplus::PeftModules;
using loraplus::Safetensors;
using loraplus::SharedWeight;

namespace {

/// A layer of each kind, over the same frozen weights whatever the options.
struct Family {
  ConvGeometry flat{.dimensions = 1, .channels = 2, .width = {.size = 6, .kernel = 3}};
  ConvGeometry image{
      .channels = 2, .height = {.size = 4, .kernel = 2}, .width = {.size = 3, .kernel = 2}};
  LoraLinear<SharedWeight<float>> fc;
  LoraEmbedding<SharedWeight<float>> embed;
  LoraConv<SharedWeight<float>> conv1, conv2;

  explicit Family(const LoraOptions& options, unsigned seed = 1)
      : Family(options, std::mt19937_64{seed}) {
    if (seed == 1) return;
    std::mt19937_64 generator{seed};
    visit([&](const std::string&, auto& layer) {
      layer.visit_parameters([&](auto p) {
        for (Index i = 0; i < p.size(); ++i) {
          p.value(i) += static_cast<float>(loraplus::normal(generator));
        }
      });
    });
  }

  template <typename Use>
  void visit(Use&& use) {
    use("fc", fc);
    use("net.embed", embed);
    use("conv1", conv1);
    use("conv2", conv2);
  }

  PeftModules modules() {
    PeftModules made;
    visit([&](const std::string& name, auto& layer) { made.add(name, layer); });
    return made;
  }

  /// All that the layers compute, one after the other.
  loraplus::Vector<float> outputs() {
    std::vector<Matrix<float>> all{predict(fc, test::random_matrix<float>(5, 3, 7)),
                                   predict(conv1, test::random_matrix<float>(12, 3, 8)),
                                   predict(conv2, test::random_matrix<float>(24, 3, 9)),
                                   Matrix<float>(4, 3)};
    auto cache = embed.make_cache(3);
    embed.forward(std::vector<Index>{6, 0, 2}, all.back(), cache);
    loraplus::Vector<float> all_of_them;
    for (const auto& each : all) {
      all_of_them.conservativeResize(all_of_them.size() + each.size());
      all_of_them.tail(each.size()) = each.reshaped();
    }
    return all_of_them;
  }

 private:
  Family(const LoraOptions& options, std::mt19937_64 generator)
      : fc(weight(4, 5, 1), options, generator),
        embed(SharedWeight<float>(test::random_matrix<float>(4, 7, 2)),
              {.rank = options.rank,
               .alpha = options.alpha,
               .scaling = options.scaling,
               .dora = options.dora},
              generator),
        conv1(weight(4, 6, 3), flat, options, generator),
        conv2(weight(4, 8, 4), image, options, generator) {}

  static SharedWeight<float> weight(Index out, Index in, unsigned seed) {
    return SharedWeight<float>(test::random_matrix<float>(out, in, seed),
                               test::random_vector<float>(out, seed + 10));
  }
};

}  // namespace

TEST_CASE("T19: layers of every kind go to a folder and come back, DoRA and biases included") {
  const LoraOptions choices[] = {{.rank = 3, .alpha = 5},
                                 {.rank = 2, .alpha = 5, .dora = true},
                                 {.rank = 3, .bias = loraplus::BiasMode::lora_only},
                                 {.rank = 1, .scaling = loraplus::Scaling::rank_stabilized}};
  for (const LoraOptions& options : choices) {
    const auto folder = test::fresh_folder("peft_family");
    Family trained(options, 5);
    trained.modules().save(folder, {.scaling = options.scaling});
    Family loaded({.rank = 8, .alpha = 2});  // of other ranks until it is loaded
    const auto found = loaded.modules().load(folder);
    CHECK(found.report.problems().empty());
    CHECK(found.config.r == options.rank);
    CHECK(test::same_bits(loaded.outputs(), trained.outputs()));
    CHECK(loaded.fc.trains_bias() == (options.bias != loraplus::BiasMode::none));
  }
}

TEST_CASE("a loaded embedding keeps its padding token") {
  const auto folder = test::fresh_folder("peft_padding");
  Family family({.rank = 2}, 5);
  family.embed.set_padding_index(6);
  family.modules().save(folder);
  family.modules().load(folder);
  CHECK(family.embed.padding_index() == 6);
}

TEST_CASE("T19: tensors of every kind have PEFT's names and shapes") {
  const auto folder = test::fresh_folder("peft_family_names");
  Family({.rank = 2, .dora = true}, 5).modules().save(folder);
  const Safetensors file(folder / "adapter_model.safetensors");
  const auto shape = [&](const std::string& name) {
    return file.at("base_model.model." + name).shape;
  };
  using Shape = std::vector<Index>;
  CHECK(file.names().size() == 12);
  CHECK(shape("fc.lora_A.weight") == Shape{2, 5});
  CHECK(shape("fc.lora_magnitude_vector") == Shape{4});
  CHECK(shape("net.embed.lora_embedding_A") == Shape{2, 7});
  CHECK(shape("net.embed.lora_embedding_B") == Shape{4, 2});
  CHECK(shape("net.embed.lora_magnitude_vector") == Shape{4});
  CHECK(shape("conv1.lora_A.weight") == Shape{2, 2, 3});
  CHECK(shape("conv1.lora_B.weight") == Shape{4, 2, 1});
  CHECK(shape("conv1.lora_magnitude_vector") == Shape{1, 4, 1});
  CHECK(shape("conv2.lora_A.weight") == Shape{2, 2, 2, 2});
  CHECK(shape("conv2.lora_B.weight") == Shape{4, 2, 1, 1});
  CHECK(shape("conv2.lora_magnitude_vector") == Shape{1, 4, 1, 1});
}

TEST_CASE("K9: an adapter that takes the place of another has the ranks of its own patterns") {
  const auto folder = test::fresh_folder("peft_family_ranks");
  Family trained({.rank = 2}, 5);
  std::mt19937_64 generator{1};
  trained.fc = {trained.fc.weight(), {.rank = 9, .alpha = 4}, generator};
  trained.modules().save(folder);
  Family other({.rank = 3}, 6);
  other.modules().load(folder);
  CHECK(other.fc.rank() == 9);
  CHECK(other.fc.scaling() == 4.0F / 9);
  CHECK(other.conv1.layer().rank() == 2);
  CHECK(test::same_bits(other.outputs(), trained.outputs()));
}

TEST_CASE("T26: adapters of other ranks take their place on layers of each kind, back and forth") {
  const auto small_folder = test::fresh_folder("peft_swap_7");
  const auto large_folder = test::fresh_folder("peft_swap_13");
  Family small({.rank = 7, .alpha = 3}, 5), large({.rank = 13}, 6), swapped({.rank = 7}, 7);
  small.modules().save(small_folder);
  large.modules().save(large_folder);
  PeftModules modules = swapped.modules();
  for (int round = 0; round < 2; ++round) {
    CHECK(modules.load(small_folder).report.complete());
    CHECK(swapped.conv2.rank() == 7);
    CHECK(test::same_bits(swapped.outputs(), small.outputs()));
    CHECK(modules.load(large_folder).report.complete());
    CHECK(swapped.conv2.rank() == 13);
    CHECK(test::same_bits(swapped.outputs(), large.outputs()));
  }
}

// PEFT raises for a key that is not expected. Here it is told, and who calls decides.
TEST_CASE("T26: a missing tensor counts as zeros, whatever was there; one too many is told") {
  const auto folder = test::fresh_folder("peft_swap_keys");
  Family trained({.rank = 2}, 5), swapped({.rank = 3}, 6);
  trained.modules().save(folder);
  const std::string prefix = "base_model.model.";
  loraplus::TensorList part;
  {
    const Safetensors whole(folder / "adapter_model.safetensors");
    for (const std::string& name : whole.names()) {
      if (name != prefix + "conv2.lora_B.weight" && !name.starts_with(prefix + "fc.")) {
        part.add(whole.at(name));
      }
    }
    const Matrix<float> extra = Matrix<float>::Ones(2, 5);
    part.add(prefix + "fc9.lora_A.weight", extra);
    loraplus::write_safetensors(folder / "adapter_model.safetensors", part);
  }
  const auto report = swapped.modules().load(folder).report;
  CHECK(report.missing == std::vector<std::string>{prefix + "fc.lora_A.weight",
                                                   prefix + "fc.lora_B.weight",
                                                   prefix + "conv2.lora_B.weight"});
  CHECK(report.unexpected == std::vector<std::string>{prefix + "fc9.lora_A.weight"});
  // Without a B these two are their frozen weights; the others are those of the folder.
  trained.fc.set_enabled(false);
  trained.conv2.layer().set_enabled(false);
  CHECK(test::same_bits(swapped.outputs(), trained.outputs()));
}

TEST_CASE("all-linear is an adapter of the linear layers; its configuration is kept") {
  const auto folder = test::fresh_folder("peft_family_linear");
  Family trained({.rank = 2}, 5);
  PeftModules linear;
  linear.add("fc", trained.fc);
  linear.save(folder);
  std::string text = test::read(folder / "adapter_config.json");
  const std::string names = "[\n    \"fc\"\n  ]";
  REQUIRE(text.find(names) != std::string::npos);
  text.replace(text.find(names), names.size(), "\"all-linear\"");
  test::write(folder / "adapter_config.json", text);
  CHECK(linear.load(folder).report.complete());
  PeftModules all = trained.modules();
  CHECK(test::contains(test::message_of<FileError>([&] { all.load(folder); }), "'net.embed'"));
}

TEST_CASE("names that mean modules around others are an expression") {
  const auto folder = test::fresh_folder("peft_family_container");
  Family trained({.rank = 2}, 5);
  PeftModules modules;
  modules.add("fc", trained.fc);
  modules.add("10.fc.2", trained.conv1);
  modules.save(folder);
  CHECK(test::contains(test::read(folder / "adapter_config.json"), "(?:fc|10\\\\.fc\\\\.2)"));
  CHECK(modules.load(folder).report.complete());
}

TEST_CASE("groups of a convolution share the ranks in a file, too") {
  const auto folder = test::fresh_folder("peft_family_groups");
  const ConvGeometry g{
      .dimensions = 1, .channels = 4, .width = {.size = 5, .kernel = 2}, .groups = 2};
  using Weight = loraplus::GroupedWeight<SharedWeight<float>>;
  const Weight weight({SharedWeight<float>(test::random_matrix<float>(3, 4, 1)),
                       SharedWeight<float>(test::random_matrix<float>(3, 4, 2))});
  std::mt19937_64 generator{1};
  LoraConv conv{
      weight, g, {.rank = 4, .initialization = loraplus::Initialization::both_uniform}, generator};
  PeftModules modules;
  modules.add("conv", conv);
  modules.save(folder);
  CHECK(Safetensors(folder / "adapter_model.safetensors")
            .at("base_model.model.conv.lora_B.weight")
            .shape == std::vector<Index>{6, 2, 1});
  const auto x = test::random_matrix<float>(20, 3, 4);
  const Matrix<float> y = predict(conv, x);
  conv = LoraConv{weight, g, {.rank = 2}, generator};
  modules.load(folder);
  CHECK(test::same_bits(predict(conv, x), y));
}

TEST_CASE("what does not fit is refused with names and shapes, and no layer is changed") {
  const auto folder = test::fresh_folder("peft_family_refused");
  Family trained({.rank = 2}, 5);
  trained.modules().save(folder);
  std::mt19937_64 generator{1};
  LoraLinear other{
      SharedWeight<float>(test::random_matrix<float>(4, 6, 1)), {.rank = 8}, generator};
  Family first({.rank = 8}, 6);
  PeftModules modules;
  modules.add("conv1", first.conv1);
  modules.add("fc", other);
  const auto before = first.outputs();
  const auto message = test::message_of<FileError>([&] { modules.load(folder); });
  CHECK(test::contains(message, "fc.lora_A.weight' (F32, 2 x 5)"));
  CHECK(test::contains(message, "F32, 2 x 6"));
  CHECK(test::same_bits(first.outputs(), before));

  PeftModules unknown;
  unknown.add("fc9", first.fc);
  CHECK(test::contains(test::message_of<FileError>([&] { unknown.load(folder); }), "'fc9'"));
  CHECK_THROWS_AS(unknown.add("fc9", first.fc), loraplus::ArgumentError);
  CHECK_THROWS_AS(PeftModules().save(folder), loraplus::ArgumentError);

  PeftModules mixed;  // DoRA is one for all in PEFT
  LoraLinear dora{first.fc.weight(), {.rank = 2, .dora = true}, generator};
  mixed.add("fc", dora);
  mixed.add("conv1", first.conv1);
  CHECK(test::contains(test::message_of<loraplus::ArgumentError>([&] { mixed.save(folder); }),
                       "'fc' and 'conv1' differ in DoRA"));
  LoraLinear groups{first.fc.weight(), {.rank = 2, .enabled_groups = {true, false}}, generator};
  PeftModules merged_linear;
  merged_linear.add("fc", groups);
  CHECK(
      test::contains(test::message_of<loraplus::ArgumentError>([&] { merged_linear.save(folder); }),
                     "groups of outputs"));
}

// PEFT's tests/test_tuners_utils.py: two linear layers, convolutions and embeddings; "default" is
// on one of each, "other" of rank 16 on the linear ones.
TEST_CASE("T29: adapters of layers of every kind have as many parameters as PEFT's") {
  std::mt19937_64 generator{1};
  const auto weight = [](Index in) {
    return SharedWeight<float>(Matrix<float>::Zero(10, in), loraplus::Vector<float>::Zero(10));
  };
  const ConvGeometry image{
      .channels = 3, .height = {.size = 5, .kernel = 3}, .width = {.size = 5, .kernel = 3}};
  LoraLinear linear(weight(10), {.rank = 8}, generator), other(weight(10), {.rank = 16}, generator);
  LoraConv conv(weight(27), image, {.rank = 8}, generator);
  LoraEmbedding embedding(SharedWeight<float>(Matrix<float>::Zero(10, 10)), {.rank = 8}, generator);
  const Index trained =
      parameter_count(linear) + parameter_count(conv) + parameter_count(embedding);
  CHECK(trained == 616);
  const Index base = 2 * (10 * 10 + 10) + 2 * (10 * 27 + 10) + 2 * 10 * 10;
  CHECK(base + trained + 2 * parameter_count(other) == 2236);
}
