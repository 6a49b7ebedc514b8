// The C++ side of interop.py. In a folder that it is given
//
//   case.json                what to do
//   base.safetensors         a network, saved from PyTorch
//   data.safetensors         x (samples x in), y (samples x out)
//   adapter/                 an adapter that PEFT saved; without it one is made
//
// it loads the network and the adapter, and writes
//
//   result.safetensors       the outputs before and after training (samples x out), the losses
//   trained/                 the trained adapter
#include <fstream>
#include <iostream>
#include <loraplus/io/peft.hpp>
#include <loraplus/io/state_dict.hpp>
#include <loraplus/loraplus.hpp>

namespace {

namespace fs = std::filesystem;
using namespace loraplus;

using Json = nlohmann::json;
using Network = AdaptedMlp<PackedWeight<float>>;

Activation activation_of(const std::string& name) {
  if (name == "relu") return Activation::relu;
  if (name == "tanh") return Activation::tanh;
  if (name == "gelu") return Activation::gelu;
  if (name == "silu") return Activation::silu;
  throw ArgumentError("no activation is called '" + name + "'");
}

Network load_network(const fs::path& folder, const FrozenMlp<PackedWeight<float>>& base,
                     PeftConfig& config) {
  auto loaded = load_peft(folder, base);
  if (!loaded.report.complete()) throw FileError(loaded.report.problems());
  config = std::move(loaded.config);
  return std::move(loaded.network);
}

Network make_network(const Json& lora, const FrozenMlp<PackedWeight<float>>& base) {
  std::mt19937_64 generator{1};
  AdaptOptions options{.lora = {.rank = lora.at("rank"), .alpha = lora.at("alpha")}};
  options.targets = lora.at("targets").get<std::vector<std::string>>();
  options.train = lora.at("train").get<std::vector<std::string>>();
  if (lora.at("bias") == "lora_only") options.lora.bias = BiasMode::lora_only;
  if (lora.at("bias") == "all") options.lora.bias = BiasMode::all;
  if (lora.at("rslora") == true) options.lora.scaling = Scaling::rank_stabilized;
  return adapt(base, options, generator);
}

void run(const fs::path& folder) {
  const Json settings = Json::parse(std::ifstream(folder / "case.json"));
  const Safetensors base_file(folder / "base.safetensors");
  const auto base =
      load_mlp<float>(base_file, {.activation = activation_of(settings.at("activation"))});
  const bool is_loaded = fs::exists(folder / "adapter");
  PeftConfig config;
  Network network = is_loaded ? load_network(folder / "adapter", freeze(base.network), config)
                              : make_network(settings.at("lora"), freeze(base.network));

  const Safetensors data_file(folder / "data.safetensors");
  const PairedData<float> data{data_file.at("x").to_matrix<float>().transpose(),
                               data_file.at("y").to_matrix<float>().transpose()};
  TensorList result;
  result.add("before", predict(network, data.inputs).transpose().eval());

  const Index steps = settings.at("steps");
  Vector<double> losses(steps);
  std::mt19937_64 generator{1};
  Optimizer optimizer(AdamW{.learning_rate = settings.at("learning_rate")}, network);
  TrainingStep<Network, MeanSquaredError> train(network, data.size());
  for (Index step = 0; step < steps; ++step) {
    losses(step) = train(network, optimizer, data.inputs, data.targets(data.size()), generator);
  }
  result.add("losses", losses);
  result.add("after", predict(network, data.inputs).transpose().eval());
  write_safetensors(folder / "result.safetensors", result);
  if (is_loaded) return save_peft(folder / "trained", network, config);
  const bool rslora = settings.at("lora").at("rslora");
  save_peft(folder / "trained", network,
            {.scaling = rslora ? Scaling::rank_stabilized : Scaling::standard});
}

}  // namespace

int main(int argc, char** argv) {
  try {
    for (int i = 1; i < argc; ++i) {
      run(argv[i]);
    }
  } catch (const std::exception& error) {
    std::cerr << "loraplus_interop: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
