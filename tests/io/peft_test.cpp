#include <loraplus/io/peft.hpp>
#include <loraplus/loraplus.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/killed.hpp"
#include "support/matrices.hpp"

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

/// The base with an adapter that has learned something, and all that is trained besides.
loraplus::AdaptedMlp<Weight> trained_network(const AdaptOptions& options) {
  std::mt19937_64 generator{6};
  auto network = adapt(base_network(), options, generator);
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

const Matrix<float> x = test::random_matrix<float>(6, 5, 3);

}  // namespace

TEST_CASE("an adapter that was saved and loaded computes the same, bit for bit") {
  const fs::path folder = test::fresh_folder("peft_round_trip");
  const std::vector<AdaptOptions> all = {
      {.lora = {.rank = 4, .alpha = 8}},
      {.lora = {.rank = 1, .alpha = 3}, .targets = {"fc2"}},
      {.lora = {.rank = 3, .alpha = 1, .dropout = 0.5, .bias = BiasMode::lora_only},
       .targets = {"fc1", "fc3"}},
      {.lora = {.rank = 2, .alpha = 5, .bias = BiasMode::all}, .targets = {"fc1"}},
      {.lora = {.rank = 2, .alpha = 2}, .train = {"fc3"}}};
  for (const AdaptOptions& options : all) {
    const auto network = trained_network(options);
    save_peft(folder, network);
    const auto loaded = load_peft(folder, base_network());
    CAPTURE(loaded.report.problems());
    CHECK(loaded.report.complete());
    CHECK(test::same_bits(loraplus::predict(loaded.network, x), loraplus::predict(network, x)));
    CHECK(loaded.config.r == options.lora.rank);
    CHECK(loaded.config.lora_alpha == options.lora.alpha);
    CHECK(loaded.config.lora_dropout == options.lora.dropout);
    CHECK(loaded.config.bias == options.lora.bias);
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
  CHECK(test::same_bits(loraplus::predict(loaded.network, x), loraplus::predict(network, x)));
  CHECK(loaded.config.options_for("fc2").rank == 2);
  CHECK(loaded.config.options_for("fc2").alpha == 8);
  CHECK(loaded.config.options_for("fc3").alpha == Approx(0.3));

  save_peft(folder, network, {.base_model = "mlp", .scaling = loraplus::Scaling::rank_stabilized});
  const auto stabilized = load_peft(folder, base);
  CHECK(stabilized.config.use_rslora);
  CHECK(stabilized.config.base_model_name_or_path == "mlp");
  CHECK(stabilized.config.options_for("fc1").alpha == 4);  // 8 / 4 * sqrt(4)
  CHECK(test::relative_distance(loraplus::predict(stabilized.network, x),
                                loraplus::predict(network, x)) < 1e-6);
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
  part.add("base_model.model.fc9.lora_A.weight", x);
  loraplus::write_safetensors(folder / "adapter_model.safetensors", part);
  const auto loaded = load_peft(folder, base_network());
  CHECK(loaded.report.missing == Names{"base_model.model.fc2.lora_B.weight"});
  CHECK(loaded.report.unexpected == Names{"base_model.model.fc9.lora_A.weight"});
  CHECK(contains(loaded.report.problems(), "missing: base_model.model.fc2.lora_B.weight; unexp"));
  // fc2 has no adapter then
  const auto* fc2 = loaded.network.layer("fc2").get_if<loraplus::LoraLinear<Weight>>();
  REQUIRE(fc2 != nullptr);
  CHECK(fc2->factors().b().isZero(0));
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
  CHECK(contains(message(base_network()), "excludes every module"));
  fs::remove(folder / "adapter_config.json");
  CHECK(contains(message(base_network()), "adapter_config.json: No such file"));
  CHECK_THROWS_AS(save_peft(folder, loraplus::thaw(base_network(), {"fc1"})),
                  loraplus::ArgumentError);
}

TEST_CASE("all-linear is every layer but the last") {
  const fs::path folder = test::fresh_folder("peft_all_linear");
  const auto network = trained_network({.lora = {.rank = 2}, .targets = {"fc1", "fc2"}});
  save_peft(folder, network);
  std::string config = test::read(folder / "adapter_config.json");
  const std::size_t begin = config.find("\"target_modules\": [");
  config.replace(begin, config.find(']', begin) + 1 - begin, "\"target_modules\": \"all-linear\"");
  test::write(folder / "adapter_config.json", config);
  const auto loaded = load_peft(folder, base_network());
  CHECK(loaded.report.complete());
  CHECK(test::same_bits(loraplus::predict(loaded.network, x), loraplus::predict(network, x)));
}

// PEFT's tests/test_custom_models.py: names of adapters of which one is a part of another.
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
    CHECK(test::same_bits(loraplus::predict(loaded.network, x), loraplus::predict(networks[i], x)));
  }
  CHECK(loraplus::peft_adapter_folder(folder, "default") == folder);
  for (const std::string name : {"", "..", "a/b", ".next"}) {
    CHECK_THROWS_AS(loraplus::peft_adapter_folder(folder, name), loraplus::ArgumentError);
  }
  CHECK(contains(test::message_of<FileError>([&] { loraplus::peft_adapters(folder / "none"); }),
                 "none"));
}

TEST_CASE("killed at any moment of saving, the old adapter or the new one is there, whole") {
  const fs::path folder = test::fresh_folder("peft_killed");
  // The same tensors' shapes with another alpha: a mixture of the two would be loaded in silence.
  const auto first = trained_network({.lora = {.rank = 2, .alpha = 1}, .targets = {"fc1"}});
  const auto second = trained_network({.lora = {.rank = 2, .alpha = 64}, .targets = {"fc1"}});
  const auto y_first = loraplus::predict(first, x), y_second = loraplus::predict(second, x);
  save_peft(folder, first);
  std::mt19937_64 generator{12};
  int seen_second = 0;
  for (int kill = 0; kill < 50; ++kill) {
    test::ends_before_kill(loraplus::uniform(generator, 0.0, 20.0), [&] {
      for (;;) {
        save_peft(folder, second);
        save_peft(folder, first);
      }
    });
    const auto y = loraplus::predict(load_peft(folder, base_network()).network, x);
    const bool is_second = test::same_bits(y, y_second);
    CHECK((is_second || test::same_bits(y, y_first)));
    seen_second += is_second ? 1 : 0;
  }
  CHECK(seen_second > 0);
  save_peft(folder, first);
  CHECK_FALSE(fs::exists(folder / ".next"));
}
