// What PEFT saved and PyTorch computed, tests/golden/peft: made by tests/interop/run.sh.
#include <loraplus/io/peft.hpp>
#include <loraplus/io/state_dict.hpp>
#include <loraplus/loraplus.hpp>

#include "support/catch.hpp"
#include "support/files.hpp"
#include "support/matrices.hpp"

namespace {

namespace fs = std::filesystem;
using namespace loraplus;

Activation activation_of(const std::string& name) {
  if (name == "relu") return Activation::relu;
  if (name == "tanh") return Activation::tanh;
  return Activation::silu;
}

}  // namespace

TEST_CASE("an adapter of PEFT computes and trains as in PyTorch, and is written byte for byte") {
  const fs::path golden = fs::path(LORAPLUS_GOLDEN_DIR) / "peft";
  int cases = 0;
  for (const auto& entry : fs::directory_iterator(golden)) {
    const fs::path& folder = entry.path();
    CAPTURE(folder.filename().string());
    const auto settings = nlohmann::json::parse(test::read(folder / "case.json"));
    const Safetensors base_file(folder / "base.safetensors"),
        data_file(folder / "data.safetensors"), expected(folder / "expected.safetensors");
    const auto base =
        load_mlp<float>(base_file, {.activation = activation_of(settings.at("activation"))});
    auto loaded = load_peft(folder / "adapter", freeze(base.network));
    CHECK(loaded.report.complete());
    CHECK(loaded.config.unknown_keys.empty());

    const fs::path written = test::fresh_folder("peft_golden");
    save_peft(written, loaded.network);
    CHECK(test::read(written / "adapter_model.safetensors") ==
          test::read(folder / "adapter" / "adapter_model.safetensors"));

    const PairedData<float> data{data_file.at("x").to_matrix<float>().transpose(),
                                 data_file.at("y").to_matrix<float>().transpose()};
    const auto outputs = [&](const char* name) {
      return Matrix<float>(expected.at(name).to_matrix<float>().transpose());
    };
    CHECK(test::relative_distance(predict(loaded.network, data.inputs), outputs("before")) < 1e-6);

    const auto losses = expected.at("losses").to_vector<double>();
    Vector<double> found(losses.size());
    std::mt19937_64 generator{1};
    Optimizer optimizer(AdamW{.learning_rate = settings.at("learning_rate")}, loaded.network);
    TrainingStep<AdaptedMlp<PackedWeight<float>>, MeanSquaredError> train(loaded.network,
                                                                          data.size());
    for (Index step = 0; step < losses.size(); ++step) {
      found(step) =
          train(loaded.network, optimizer, data.inputs, data.targets(data.size()), generator);
    }
    CHECK(test::relative_distance(found, losses) < 1e-5);
    CHECK(test::relative_distance(predict(loaded.network, data.inputs), outputs("after")) < 1e-5);
    ++cases;
  }
  CHECK(cases == 7);
}
