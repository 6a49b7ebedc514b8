#include <loraplus/io/peft.hpp>
#include <loraplus/loraplus.hpp>
#include <thread>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/killed.hpp"
#include "support/matrices.hpp"
#include "support/sparse_weight.hpp"

using loraplus::Activation;
using loraplus::adapt;
using loraplus::AdaptOptions;
using loraplus::BiasMode;
using loraplus::FileError;
using loraplus::FrozenMlp;
using loraplus::Index;
using loraplus::load_peft;
using loraplus::Matrix;
using loraplus::PackedWeight;
using loraplus::Safetensors;
using loraplus::save_peft;
using loraplus::TensorList;
using loraplus::Vector;
using test::contains;

namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;
using Weight = PackedWeight<float>;

FrozenMlp<Weight> base_network() {
  std::mt19937_64 generator{5};
  return loraplus::freeze(loraplus::make_mlp<float>({6, 9, 7, 3}, Activation::relu, generator));
}

/// Layers of these names, 6 x 6 and the last one 3 x 6; `unbiased` has no bias.
FrozenMlp<Weight> base_network(const Names& names, const std::string& unbiased = {}) {
  std::mt19937_64 generator{5};
  std::vector<loraplus::Mlp<loraplus::Linear<float>>::Stage> stages;
  for (const std::string& name : names) {
    loraplus::Linear<float> layer(name == names.back() ? 3 : 6, 6, generator);
    if (name == unbiased) layer = loraplus::Linear<float>(layer.weight());
    stages.push_back({name, std::move(layer), Activation::relu});
  }
  return loraplus::freeze(loraplus::Mlp<loraplus::Linear<float>>(std::move(stages)));
}

/// A base with an adapter that has learned something, and all that is trained besides.
loraplus::AdaptedMlp<Weight> trained_network(const AdaptOptions& options,
                                             const FrozenMlp<Weight>& base = base_network()) {
  std::mt19937_64 generator{6};
  auto network = adapt(base, options, generator);
  const loraplus::PairedData<float> data{test::random_matrix<float>(6, 20, 1),
                                         test::random_matrix<float>(3, 20, 2)};
  loraplus::Optimizer optimizer(loraplus::Adam{.learning_rate = 1e-2}, network);
  loraplus::fit<loraplus::MeanSquaredError>(network, optimizer, data, {.steps = 20, .batch = 20},
                                            generator);
  return network;
}

Names tensors_in(const fs::path& folder) {
  Names names = Safetensors(folder / "adapter_model.safetensors").names();
  std::sort(names.begin(), names.end());
  return names;
}

nlohmann::json read_config(const fs::path& folder) {
  return nlohmann::json::parse(test::read(folder / "adapter_config.json"));
}

/// Writes a configuration anew with other values of some keys.
void change_config(const fs::path& folder, const nlohmann::json& changes) {
  auto config = read_config(folder);
  config.update(changes);
  test::write(folder / "adapter_config.json", config.dump());
}

template <typename Layer>
bool is_layer(const loraplus::AdaptedMlp<Weight>& network, const char* name) {
  return network.layer(name).get_if<Layer>() != nullptr;
}

const Matrix<float> probe = test::random_matrix<float>(6, 5, 3);

/// Saves a network, loads it again, and compares the two; a layer that is loaded to be trained in
/// full adds up in another order than a frozen one. @returns what was loaded
loraplus::LoadedPeft<Weight> saved_and_loaded(const fs::path& folder,
                                              const loraplus::AdaptedMlp<Weight>& network,
                                              const FrozenMlp<Weight>& base) {
  save_peft(folder, network);
  auto loaded = load_peft(folder, base);
  CHECK(loaded.report.problems() == "");
  CHECK(test::relative_distance(loraplus::predict(loaded.network, probe),
                                loraplus::predict(network, probe)) < 1e-6);
  return loaded;
}

using Adapted = loraplus::LoraLinear<Weight>;
using Frozen = loraplus::FrozenLinear<Weight>;
using Full = loraplus::Linear<float>;

}  // namespace

TEST_CASE("an adapter that was saved and loaded computes the same, bit for bit") {
  const fs::path folder = test::fresh_folder("peft_round_trip");
  const std::vector<AdaptOptions> all = {
      {.lora = {.rank = 4, .alpha = 8}},
      {.lora = {.rank = 1, .alpha = 3}, .targets = {"fc2"}},
      {.lora = {.rank = 3, .alpha = 1, .dropout = 0.5, .bias = BiasMode::lora_only},
       .targets = {"fc1", "fc3"}},
      {.lora = {.rank = 2, .alpha = 5, .bias = BiasMode::all}, .targets = {"fc1"}},
      {.lora = {.rank = 2, .alpha = 2, .lora_bias = true}, .targets = {"fc2"}},
      {.lora = {.rank = 2, .alpha = 2, .dora = true}, .targets = {"fc2", "fc3"}},
      {.lora = {.rank = 2, .alpha = 2}, .train = {"fc3"}}};
  for (const AdaptOptions& options : all) {
    const auto network = trained_network(options);
    save_peft(folder, network);
    const auto loaded = load_peft(folder, base_network());
    CAPTURE(loaded.report.problems());
    CHECK(loaded.report.complete());
    CHECK(test::same_bits(loraplus::predict(loaded.network, probe),
                          loraplus::predict(network, probe)));
    CHECK(loaded.config.r == options.lora.rank);
    CHECK(loaded.config.lora_alpha == options.lora.alpha);
    CHECK(loaded.config.lora_dropout == options.lora.dropout);
    CHECK(loaded.config.bias == options.lora.bias);
    CHECK(loaded.config.lora_bias == options.lora.lora_bias);
    CHECK(loaded.config.use_dora == options.lora.dora);
  }
}

TEST_CASE("tensors have PEFT's names, and only what was trained is saved") {
  const fs::path folder = test::fresh_folder("peft_names");
  const std::string prefix = "base_model.model.";
  save_peft(folder, trained_network({.lora = {.rank = 2}, .targets = {"fc1"}}));
  CHECK(tensors_in(folder) == Names{prefix + "fc1.lora_A.weight", prefix + "fc1.lora_B.weight"});
  save_peft(folder, trained_network(
                        {.lora = {.rank = 2, .bias = BiasMode::lora_only}, .targets = {"fc1"}}));
  CHECK(tensors_in(folder) == Names{prefix + "fc1.base_layer.bias", prefix + "fc1.lora_A.weight",
                                    prefix + "fc1.lora_B.weight"});
  save_peft(folder,
            trained_network({.lora = {.rank = 2, .bias = BiasMode::all}, .targets = {"fc1"}}));
  CHECK(tensors_in(folder) == Names{prefix + "fc1.base_layer.bias", prefix + "fc1.lora_A.weight",
                                    prefix + "fc1.lora_B.weight", prefix + "fc2.bias",
                                    prefix + "fc3.bias"});
  save_peft(folder, trained_network({.lora = {.rank = 2}, .targets = {"fc1"}, .train = {"fc3"}}));
  CHECK(tensors_in(folder) == Names{prefix + "fc1.lora_A.weight", prefix + "fc1.lora_B.weight",
                                    prefix + "fc3.bias", prefix + "fc3.weight"});
  const Safetensors file(folder / "adapter_model.safetensors");
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  CHECK(file.at(prefix + "fc1.lora_A.weight").shape == std::vector<Index>{2, 6});
  CHECK(file.at(prefix + "fc1.lora_B.weight").shape == std::vector<Index>{9, 2});
}

// PEFT's tests/test_tuners_utils.py: a Linear(10, 10) at rank 8.
TEST_CASE("T29: an adapter has as many parameters as PEFT's") {
  std::mt19937_64 generator{1};
  const auto plain = loraplus::make_mlp<float>({10, 10, 10}, Activation::relu, generator);
  auto network = adapt(plain, {.lora = {.rank = 8}, .targets = {"fc1"}}, generator);
  CHECK(loraplus::parameter_count(network) == 160);
  auto counted = plain;
  CHECK(loraplus::parameter_count(counted) + 160 == 380);
}

TEST_CASE("ranks and alphas that differ are patterns, and rank-stabilised scaling is told") {
  const fs::path folder = test::fresh_folder("peft_patterns");
  std::mt19937_64 generator{1};
  const auto base = base_network();
  std::vector<loraplus::AdaptedMlp<Weight>::Stage> stages;
  const std::vector<loraplus::LoraOptions> options = {
      {.rank = 4, .alpha = 8, .initialization = loraplus::Initialization::b_uniform},
      {.rank = 2, .alpha = 8},
      {.rank = 4, .alpha = 0.3}};
  for (std::size_t i = 0; i < 3; ++i) {
    const auto& stage = base.stages()[i];
    stages.push_back({stage.name,
                      loraplus::LoraLinear<Weight>(stage.layer.weight(), options[i], generator),
                      stage.activation});
  }
  const loraplus::AdaptedMlp<Weight> network(std::move(stages));
  save_peft(folder, network);
  const auto loaded = load_peft(folder, base);
  CHECK(loaded.report.complete());
  CHECK(
      test::same_bits(loraplus::predict(loaded.network, probe), loraplus::predict(network, probe)));
  CHECK(loaded.config.options_for("fc2").rank == 2);
  CHECK(loaded.config.options_for("fc2").alpha == 8);
  CHECK(loaded.config.options_for("fc3").alpha == Approx(0.3));

  save_peft(folder, network, {.base_model = "mlp", .scaling = loraplus::Scaling::rank_stabilized});
  const auto stabilized = load_peft(folder, base);
  CHECK(stabilized.config.use_rslora);
  CHECK(stabilized.config.base_model_name_or_path == "mlp");
  CHECK(stabilized.config.options_for("fc1").alpha == 4);  // 8 / 4 * sqrt(4)
  CHECK(test::relative_distance(loraplus::predict(stabilized.network, probe),
                                loraplus::predict(network, probe)) < 1e-6);
}

TEST_CASE("tensors that are missing or not expected are told by name") {
  const fs::path folder = test::fresh_folder("peft_report");
  const auto network = trained_network({.lora = {.rank = 2}, .targets = {"fc1", "fc2"}});
  save_peft(folder, network);
  const Safetensors whole(folder / "adapter_model.safetensors");
  TensorList part;
  for (const std::string& name : whole.names()) {
    if (name != "base_model.model.fc2.lora_B.weight") part.add(whole.at(name));
  }
  part.add("base_model.model.fc9.lora_A.weight", probe);
  loraplus::write_safetensors(folder / "adapter_model.safetensors", part);
  const auto loaded = load_peft(folder, base_network());
  CHECK(loaded.report.missing == Names{"base_model.model.fc2.lora_B.weight"});
  CHECK(loaded.report.unexpected == Names{"base_model.model.fc9.lora_A.weight"});
  CHECK(contains(loaded.report.problems(), "missing: base_model.model.fc2.lora_B.weight; unexp"));
  // fc2 has no adapter then
  const auto* fc2 = loaded.network.layer("fc2").get_if<loraplus::LoraLinear<Weight>>();
  REQUIRE(fc2 != nullptr);
  CHECK(fc2->factors().b().isZero(0));
  const auto a_of = [](const loraplus::AdaptedMlp<Weight>& of) {
    return of.layer("fc2").get_if<Adapted>()->factors().a();
  };
  CHECK(test::same_bits(a_of(loaded.network), a_of(network)));  // in `used`, so it is in use
}

TEST_CASE("what the report calls used is in use, also of a pair that is not complete") {
  const fs::path folder = test::fresh_folder("peft_report_parts");
  const auto network = trained_network({.lora = {.rank = 2}, .targets = {"fc1"}, .train = {"fc2"}});
  save_peft(folder, network);
  const Safetensors whole(folder / "adapter_model.safetensors");
  const std::string prefix = "base_model.model.";
  TensorList part;
  part.add(whole.at(prefix + "fc1.lora_B.weight"));
  part.add(whole.at(prefix + "fc2.weight"));
  loraplus::write_safetensors(folder / "adapter_model.safetensors", part);
  const auto loaded = load_peft(folder, base_network());
  CHECK(loaded.report.used == Names{prefix + "fc2.weight"});
  CHECK(loaded.report.missing == Names{prefix + "fc1.lora_A.weight", prefix + "fc2.bias"});
  CHECK(loaded.report.unexpected == Names{prefix + "fc1.lora_B.weight"});
  CHECK(loaded.network.layer("fc1").get_if<Adapted>()->factors().b().isZero(0));
  const auto& fc2 = *loaded.network.layer("fc2").get_if<Full>();
  CHECK(test::same_bits(fc2.weight(), network.layer("fc2").get_if<Full>()->weight()));
  CHECK(fc2.bias() == base_network().layer("fc2").bias());
}

TEST_CASE("an adapter that does not fit is refused with both shapes") {
  const fs::path folder = test::fresh_folder("peft_refused");
  save_peft(folder, trained_network({.lora = {.rank = 2}, .targets = {"fc2"}}));
  const auto message = [&](const FrozenMlp<Weight>& base) {
    return test::message_of<FileError>([&] { load_peft(folder, base); });
  };
  std::mt19937_64 generator{1};
  const auto other =
      loraplus::freeze(loraplus::make_mlp<float>({6, 8, 7, 3}, Activation::relu, generator));
  CHECK(contains(message(other), "'base_model.model.fc2.lora_A.weight' (F32, 2 x 9) does not fit"));
  CHECK(contains(message(other), "F32, 2 x 8"));
  const auto small =
      loraplus::freeze(loraplus::make_mlp<float>({6, 3}, Activation::relu, generator));
  CHECK(contains(message(small), "'target_modules' names no module of the network, which has fc1"));

  std::string config = test::read(folder / "adapter_config.json");
  config.replace(config.find("\"exclude_modules\": null"), 23, "\"exclude_modules\": [\"fc2\"]");
  test::write(folder / "adapter_config.json", config);
  CHECK(contains(message(base_network()), "'exclude_modules' leaves nothing to adapt"));
  const auto message_with = [&](const nlohmann::json& changes) {
    change_config(folder, {{"target_modules", {"fc2"}}, {"exclude_modules", nullptr}});
    change_config(folder, changes);
    return message(base_network());
  };
  CHECK(contains(message_with({{"modules_to_save", {"fc2"}}}),
                 "'modules_to_save' leaves nothing to adapt"));
  CHECK(contains(message_with({{"modules_to_save", nullptr},
                               {"layers_to_transform", {3}},
                               {"target_modules", {"c2", "2"}}}),
                 "names no module"));
  CHECK(contains(message_with({{"layers_to_transform", nullptr}, {"target_modules", nullptr}}),
                 "'target_modules' is missing"));
  fs::remove(folder / "adapter_config.json");
  CHECK(contains(message(base_network()), "adapter_config.json: No such file"));
  CHECK_THROWS_AS(save_peft(folder, loraplus::thaw(base_network(), {"fc1"})),
                  loraplus::ArgumentError);
}

// Of the configuration alone, so by the rule for a plain nn.Module of PyTorch.
TEST_CASE("an alpha that is infinite as a float is refused with its file and module") {
  const fs::path folder = test::fresh_folder("peft_infinite");
  save_peft(folder, trained_network({.lora = {.rank = 2}, .targets = {"fc2"}}));
  change_config(folder, {{"lora_alpha", 1e300}});
  const auto refusal = test::message_of<FileError>([&] { load_peft(folder, base_network()); });
  CHECK(contains(refusal, "adapter_config.json"));
  CHECK(contains(refusal, "'fc2'"));
  CHECK(contains(refusal, "the scaling must be finite"));
}

TEST_CASE("all-linear is every layer, in whatever case it is written") {
  const fs::path folder = test::fresh_folder("peft_all_linear");
  const auto network = trained_network({.lora = {.rank = 2}});
  save_peft(folder, network);
  for (const char* text : {"all-linear", "All-Linear"}) {
    change_config(folder, {{"target_modules", text}});
    const auto loaded = load_peft(folder, base_network());
    CHECK(loaded.report.complete());
    CHECK(test::same_bits(loraplus::predict(loaded.network, probe),
                          loraplus::predict(network, probe)));
  }
  save_peft(folder, trained_network({.lora = {.rank = 2}, .targets = {"fc1"}, .train = {"fc3"}}));
  change_config(folder, {{"target_modules", "all-linear"}, {"exclude_modules", {"fc2"}}});
  const auto loaded = load_peft(folder, base_network());
  CHECK(loaded.report.complete());
  CHECK(is_layer<Adapted>(loaded.network, "fc1"));
  CHECK(is_layer<Frozen>(loaded.network, "fc2"));
  CHECK(is_layer<Full>(loaded.network, "fc3"));
}

// _set_trainable of PEFT asks key.endswith(name), without a dot.
TEST_CASE("a layer whose name ends like that of one trained in full is saved in full") {
  const fs::path folder = test::fresh_folder("peft_suffix");
  struct Case {
    Names layers;
    std::string adapted, trained, other;
  };
  for (const Case& c : {Case{{"0", "2", "10"}, "2", "0", "10"},
                        Case{{"fc1", "head", "subhead"}, "fc1", "head", "subhead"},
                        Case{{"fc1", "ad", "head.0"}, "fc1", "ad", "head.0"}}) {
    const auto base = base_network(c.layers);
    for (const BiasMode bias : {BiasMode::none, BiasMode::all}) {
      const auto network = trained_network(
          {.lora = {.rank = 2, .bias = bias}, .targets = {c.adapted}, .train = {c.trained}}, base);
      const auto loaded = saved_and_loaded(folder, network, base);
      CHECK(loaded.config.modules.modules_to_save == Names{c.trained});
      CHECK(is_layer<Adapted>(loaded.network, c.adapted.c_str()));
      CHECK(is_layer<Full>(loaded.network, c.trained.c_str()));
      CHECK(is_layer<Full>(loaded.network, c.other.c_str()));
    }
  }
}

TEST_CASE("a frozen weight that cannot be read cannot be saved in full") {
  using Sparse = test::SparseWeight<float>;
  using Layer = loraplus::AdaptedLayer<Sparse>;
  const fs::path folder = test::fresh_folder("peft_sparse");
  std::mt19937_64 generator{1};
  Sparse weight{Eigen::SparseMatrix<float>(6, 6)};
  weight.w.insert(2, 3) = 1;
  const auto network = [&](const char* last) {
    return loraplus::AdaptedMlp<Sparse>(
        {{"fc1", Layer(loraplus::LoraLinear<Sparse>(weight, {.rank = 2}, generator))},
         {"head", Layer(Full(6, 6, generator))},
         {last, Layer(loraplus::FrozenLinear<Sparse>(weight))}});
  };
  CHECK(contains(
      test::message_of<loraplus::ArgumentError>([&] { save_peft(folder, network("subhead")); }),
      "'subhead' is trained in full with 'head', but its frozen weight"));
  save_peft(folder, network("last"));
  CHECK(tensors_in(folder).size() == 4);
}

TEST_CASE("names by which PEFT cannot tell adapted layers from others are refused, or replaced") {
  const fs::path folder = test::fresh_folder("peft_ambiguous");
  const auto message = [&](const Names& layers, const Names& targets, const Names& train) {
    const auto network = trained_network({.lora = {.rank = 2}, .targets = targets, .train = train},
                                         base_network(layers));
    return test::message_of<loraplus::ArgumentError>([&] { save_peft(folder, network); });
  };
  CHECK(contains(message({"0", "2", "10"}, {"2", "10"}, {"0"}), "'0' is trained in full and '10'"));
  CHECK(contains(message({"fc1", "layer", "out"}, {"fc1"}, {"layer"}), "'layer' is trained"));
  CHECK(contains(message({"net.0", "netx0", "out"}, {"netx0"}, {"net.0"}), "'net.0' is trained"));
  CHECK_FALSE(fs::exists(folder / "adapter_config.json"));

  const auto base = base_network({"fc", "net.fc", "deep.net.fc"});
  const auto inner = trained_network({.lora = {.rank = 2}, .targets = {"fc", "net.fc"}}, base);
  const auto loaded = saved_and_loaded(folder, inner, base);
  CHECK(read_config(folder).at("target_modules") == "(?:fc|net\\.fc)");
  CHECK(is_layer<Frozen>(loaded.network, "deep.net.fc"));
  const auto outer = trained_network({.lora = {.rank = 2}, .targets = {"deep.net.fc"}}, base);
  saved_and_loaded(folder, outer, base);
  CHECK(read_config(folder).at("target_modules") == Names{"deep.net.fc"});
}

TEST_CASE("modules_to_save are found as PEFT finds them") {
  const fs::path folder = test::fresh_folder("peft_saved_rule");
  const auto base = base_network({"fc1", "net.fc2", "head"});
  save_peft(folder,
            trained_network({.lora = {.rank = 2}, .targets = {"fc1"}, .train = {"net.fc2"}}, base));
  change_config(folder, {{"modules_to_save", {"et"}}});  // the module that net.fc2 is in
  const auto inner = load_peft(folder, base);
  CHECK(inner.report.complete());
  CHECK(is_layer<Full>(inner.network, "net.fc2"));
  CHECK(is_layer<Frozen>(inner.network, "head"));
  // an expression keeps from being adapted, but is the end of no name
  change_config(folder, {{"modules_to_save", {"net..*"}}});
  const auto none = load_peft(folder, base);
  CHECK(none.report.unexpected.size() == 2);
  CHECK(is_layer<Frozen>(none.network, "net.fc2"));
  change_config(folder, {{"modules_to_save", {"1"}}});
  CHECK(contains(test::message_of<FileError>([&] { load_peft(folder, base); }),
                 "'modules_to_save' names '1', which for PEFT means 'fc1'"));
}

TEST_CASE("T24, K18: biases that differ from layer to layer come back") {
  const fs::path folder = test::fresh_folder("peft_mixed_bias");
  // an adapted layer without bias, and the biases of all others trained
  const auto unbiased = base_network({"fc1", "fc2", "fc3"}, "fc1");
  const auto trained =
      trained_network({.lora = {.rank = 2, .bias = BiasMode::all}, .targets = {"fc1"}}, unbiased);
  CHECK(saved_and_loaded(folder, trained, unbiased).config.bias == BiasMode::all);
  CHECK(tensors_in(folder).size() == 4);

  // of two adapted layers one trains its bias, and so does one of the others
  const auto base = base_network({"fc1", "fc2", "fc3", "fc4"});
  const auto all = trained_network({.lora = {.rank = 2, .bias = BiasMode::all}, .targets = {"fc1"}},
                                   base),
             none = trained_network({.lora = {.rank = 2}, .targets = {"fc2"}}, base);
  std::vector<loraplus::AdaptedMlp<Weight>::Stage> stages;
  for (std::size_t i = 0; i < 4; ++i) {
    stages.push_back(i % 2 == 0 ? all.stages()[i] : none.stages()[i]);
  }
  const loraplus::AdaptedMlp<Weight> mixed(std::move(stages));
  CHECK(saved_and_loaded(folder, mixed, base).config.bias == BiasMode::all);
  CHECK(tensors_in(folder).size() == 8);
  const auto adapted = trained_network(
      {.lora = {.rank = 2, .bias = BiasMode::lora_only}, .targets = {"fc1", "fc2"}}, unbiased);
  CHECK(saved_and_loaded(folder, adapted, unbiased).config.bias == BiasMode::lora_only);
}

TEST_CASE("with all biases, PEFT's two more of a layer trained in full are known") {
  const fs::path folder = test::fresh_folder("peft_saved_bias");
  const auto base = base_network({"fc1", "net.fc2", "head"});
  const auto network = trained_network({.lora = {.rank = 2, .bias = BiasMode::all},
                                        .targets = {"fc1"},
                                        .train = {"net.fc2", "head"}},
                                       base);
  save_peft(folder, network);
  change_config(folder, {{"modules_to_save", {"net", "head"}}, {"bias", "all"}});
  const Safetensors whole(folder / "adapter_model.safetensors");
  TensorList tensors;
  for (const std::string& name : whole.names()) {
    tensors.add(whole.at(name));
  }
  const Vector<float> other = Vector<float>::Ones(3);
  const std::string prefix = "base_model.model.";
  for (const char* name : {"net.modules_to_save.default.fc2", "net.original_module.fc2",
                           "head.modules_to_save", "head.original_module"}) {
    tensors.add(prefix + name + ".bias", other);
  }
  loraplus::write_safetensors(folder / "adapter_model.safetensors", tensors);
  const auto loaded = load_peft(folder, base);
  CHECK(loaded.report.problems() == "");
  CHECK(
      test::same_bits(loraplus::predict(loaded.network, probe), loraplus::predict(network, probe)));
  change_config(folder, {{"bias", "lora_only"}});
  CHECK(load_peft(folder, base).report.unexpected.size() == 4);
}

TEST_CASE("an adapter that was loaded is saved in the words of its configuration") {
  const fs::path folder = test::fresh_folder("peft_again");
  const auto base = base_network({"0", "net.2", "10"});
  save_peft(folder,
            trained_network({.lora = {.rank = 4}, .targets = {"net.2"}, .train = {"0"}}, base));
  change_config(folder, {{"task_type", "SEQ_CLS"},
                         {"base_model_name_or_path", "mlp"},
                         {"init_lora_weights", "gaussian"},
                         {"use_rslora", true},
                         {"fan_in_fan_out", true},
                         {"target_modules", ".*[0-9]"},
                         {"modules_to_save", {"0"}},
                         {"exclude_modules", "10"},
                         {"r", 7},
                         {"rank_pattern", {{"2", 4}}},
                         {"lora_alpha", 22.5}});
  const auto before = read_config(folder);
  const auto loaded = load_peft(folder, base);
  save_peft(folder, loaded.network, loaded.config);
  CHECK(read_config(folder) == before);
  CHECK(load_peft(folder, base).report.complete());

  // what is no longer true of the network is told anew
  const auto other = trained_network({.lora = {.rank = 3, .alpha = 22.5}, .targets = {"0"}}, base);
  save_peft(folder, other, loaded.config);
  const auto after = read_config(folder);
  CHECK(after.at("task_type") == "SEQ_CLS");
  CHECK(after.at("target_modules") == Names{"0"});
  CHECK(after.at("modules_to_save").is_null());
  CHECK(after.at("exclude_modules").is_null());
  CHECK(after.at("r") == 3);
  CHECK(after.at("rank_pattern").empty());
  const auto again = load_peft(folder, base);
  CHECK(test::relative_distance(loraplus::predict(again.network, probe),
                                loraplus::predict(other, probe)) < 1e-6);

  save_peft(folder, other, {.fan_in_fan_out = true});
  CHECK(read_config(folder).at("fan_in_fan_out") == true);
}

TEST_CASE("an alpha is saved as it was given") {
  const fs::path folder = test::fresh_folder("peft_alpha");
  for (const double alpha : {22.5, 0.3, 16.0, 1e-3, 123.456}) {
    for (const Index rank : {1, 3, 7, 12}) {
      for (const loraplus::Scaling scaling :
           {loraplus::Scaling::standard, loraplus::Scaling::rank_stabilized}) {
        const auto network =
            trained_network({.lora = {.rank = rank, .alpha = alpha, .scaling = scaling}});
        save_peft(folder, network, {.scaling = scaling});
        const auto config = read_config(folder);
        CHECK(config.at("lora_alpha") == alpha);
        CHECK(config.at("alpha_pattern").empty());
      }
    }
  }
}

// PEFT's tests/test_custom_models.py: names of adapters of which one is a part of another. PEFT
// keeps them in one network and tells their tensors apart by these names; here each is of a network
// of its own, and its folder alone has the name.
TEST_CASE("T32: of several adapters each folder has the tensors of its own alone") {
  const fs::path folder = test::fresh_folder("peft_adapters");
  const Names names = {"default", "default2", "efaul", "foodefault_bar", "other_default"};
  std::vector<loraplus::AdaptedMlp<Weight>> networks;
  for (std::size_t i = 0; i < names.size(); ++i) {
    networks.push_back(trained_network({.lora = {.rank = static_cast<Index>(i + 1)}}));
    save_peft(loraplus::peft_adapter_folder(folder, names[i]), networks[i]);
  }
  CHECK(loraplus::peft_adapters(folder) == names);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const fs::path place = loraplus::peft_adapter_folder(folder, names[i]);
    const auto loaded = load_peft(place, base_network());
    CHECK(loaded.report.complete());
    CHECK(loaded.config.r == static_cast<Index>(i + 1));
    CHECK(tensors_in(place) == tensors_in(folder));
    CHECK(test::same_bits(loraplus::predict(loaded.network, probe),
                          loraplus::predict(networks[i], probe)));
  }
  CHECK(loraplus::peft_adapter_folder(folder, "default") == folder);
  for (const std::string name : {"", "..", "a/b", ".next"}) {
    CHECK_THROWS_AS(loraplus::peft_adapter_folder(folder, name), loraplus::ArgumentError);
  }
  CHECK(contains(test::message_of<FileError>([&] { loraplus::peft_adapters(folder / "none"); }),
                 "none"));
}

TEST_CASE("T32: layers that are called as adapters, or parts of their tensors' names, are") {
  const fs::path folder = test::fresh_folder("peft_layer_names");
  std::mt19937_64 generator{7};
  const Names names = {"default",    "efaul",         "lora_A",
                       "base_layer", "lora_B.weight", "other_default"};
  std::vector<FrozenMlp<Weight>::Stage> stages;
  for (const std::string& name : names) {
    const loraplus::Linear<float> layer(6, 6, generator);
    stages.push_back(
        {name, loraplus::FrozenLinear(Weight(layer.weight(), layer.bias())), Activation::tanh});
  }
  const FrozenMlp<Weight> base(std::move(stages));
  auto network = adapt(base,
                       {.lora = {.rank = 2,
                                 .initialization = loraplus::Initialization::b_uniform,
                                 .bias = BiasMode::lora_only},
                        .targets = {"default", "lora_A", "base_layer", "lora_B.weight"}},
                       generator);
  loraplus::for_each_adapter(network, [&](auto& layer) {
    layer.set_factors(test::random_matrix<float>(2, 6, 4), layer.factors().b());
  });
  save_peft(folder, network);
  const auto loaded = load_peft(folder, base);
  CHECK(loaded.report.complete());
  CHECK(loaded.report.used.size() == 12);
  CHECK(
      test::same_bits(loraplus::predict(loaded.network, probe), loraplus::predict(network, probe)));
}

TEST_CASE("killed at any moment of saving, the old adapter or the new one is there, whole") {
  const fs::path folder = test::fresh_folder("peft_killed");
  // The same tensors' shapes with another alpha: a mixture of the two would be loaded in silence.
  const auto first = trained_network({.lora = {.rank = 2, .alpha = 1}, .targets = {"fc1"}});
  const auto second = trained_network({.lora = {.rank = 2, .alpha = 64}, .targets = {"fc1"}});
  const auto y_first = loraplus::predict(first, probe), y_second = loraplus::predict(second, probe);
  save_peft(folder, first);
  const auto save = [&] {
    for (;;) {
      save_peft(folder, second);
      save_peft(folder, first);
    }
  };
  const int seen_second = test::killed_at_any_moment(std::mt19937_64{12}, save, [&] {
    const auto y = loraplus::predict(load_peft(folder, base_network()).network, probe);
    const bool is_second = test::same_bits(y, y_second);
    CHECK((is_second || test::same_bits(y, y_first)));
    return is_second;
  });
  CHECK(seen_second > 0);
  save_peft(folder, first);
  CHECK(std::distance(fs::directory_iterator(folder), {}) == 2);  // nothing that the killed left
}

TEST_CASE("who loads beside who saves gets the old adapter or the new one, never an error") {
  const fs::path folder = test::fresh_folder("peft_beside");
  const auto first = trained_network({.lora = {.rank = 2, .alpha = 1}, .targets = {"fc1"}});
  const auto second = trained_network({.lora = {.rank = 2, .alpha = 64}, .targets = {"fc1"}});
  const auto y_first = loraplus::predict(first, probe), y_second = loraplus::predict(second, probe);
  const auto base = base_network();
  save_peft(folder, first);
  std::atomic<bool> done = false;
  std::thread saver([&] {
    for (int i = 0; !done; ++i) {
      save_peft(folder, i % 2 == 0 ? second : first);
    }
  });
  int mixed = 0, failed = 0;
  for (int i = 0; i < 4000; ++i) {
    try {
      const auto y = loraplus::predict(load_peft(folder, base).network, probe);
      mixed += test::same_bits(y, y_first) || test::same_bits(y, y_second) ? 0 : 1;
    } catch (const FileError&) {
      ++failed;
    }
  }
  done = true;
  saver.join();
  CHECK(mixed == 0);
  CHECK(failed == 0);
}

TEST_CASE("a saving that was killed between its moves is finished by who loads, for Python too") {
  const fs::path folder = test::fresh_folder("peft_finished");
  const auto first = trained_network({.lora = {.rank = 2, .alpha = 1}, .targets = {"fc1"}});
  const auto second = trained_network({.lora = {.rank = 2, .alpha = 64}, .targets = {"fc1"}});
  save_peft(folder, first);
  save_peft(folder / ".next", second);
  fs::rename(folder / ".next" / "adapter_config.json", folder / "adapter_config.json");
  const auto loaded = load_peft(folder, base_network());
  CHECK(
      test::same_bits(loraplus::predict(loaded.network, probe), loraplus::predict(second, probe)));
  CHECK(std::distance(fs::directory_iterator(folder), {}) == 2);
}

TEST_CASE("no initialisation is told with which PEFT refuses the adapter, or warns") {
  const fs::path folder = test::fresh_folder("peft_initialization");
  const auto saved = [&](const AdaptOptions& options, const std::string& initialization) {
    loraplus::PeftConfig config;
    config.init_lora_weights = initialization;
    save_peft(folder, trained_network(options), config);
    return read_config(folder).at("init_lora_weights");
  };
  const AdaptOptions even = {.lora = {.rank = 4}}, odd = {.lora = {.rank = 3}};
  const AdaptOptions with_bias = {.lora = {.rank = 4, .lora_bias = true}};
  CHECK(saved(even, "gaussian") == "gaussian");
  CHECK(saved(with_bias, "gaussian") == true);
  CHECK(saved(even, "eva") == true);
  CHECK(saved(even, "orthogonal") == "orthogonal");
  CHECK(saved(odd, "orthogonal") == true);
}
