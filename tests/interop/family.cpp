// The C++ side of family.py. In a folder that it is given
//
//   family.json              what to do
//   base.safetensors         the frozen weights of modules, saved from PyTorch
//   data.safetensors         for each module its inputs, samples first; for "combine" the factors
//   of
//                            adapters, for "initialize" a weight
//   adapter/                 an adapter that PEFT saved
//
// it writes
//
//   result.safetensors       for each module its outputs, and those of the merged module; what was
//                            combined and initialised
//   saved/                   the adapter, saved again
#include <fstream>
#include <iostream>
#include <loraplus/adapter/combine.hpp>
#include <loraplus/adapter/decompose.hpp>
#include <loraplus/adapter/initialize.hpp>
#include <loraplus/adapter/initialize_data.hpp>
#include <loraplus/io/peft_modules.hpp>
#include <loraplus/loraplus.hpp>

namespace {

namespace fs = std::filesystem;
using namespace loraplus;

using Json = nlohmann::json;
using Conv = LoraConv<GroupedWeight<PackedWeight<float>>>;

struct Folder {
  fs::path path;
  Safetensors base{path / "base.safetensors"};
  Safetensors data{path / "data.safetensors"};
  TensorList result = {};

  explicit Folder(fs::path place) : path(std::move(place)) {}

  Vector<float> bias(const std::string& module) const {
    const std::string name = module + ".bias";
    return base.contains(name) ? base.at(name).to_vector<float>() : Vector<float>();
  }
  Matrix<float> matrix(const std::string& name) const {
    return data.at(name).flattened().to_matrix<float>();
  }
  /// The inputs of a module, a column a sample.
  Matrix<float> inputs(const std::string& module) const { return matrix(module).transpose(); }
};

ConvAxis axis(const Json& spec, std::size_t i) {
  return {spec.at("size").at(i), spec.at("kernel").at(i), spec.at("stride").at(i),
          spec.at("padding").at(i), spec.at("dilation").at(i)};
}

ConvGeometry geometry(const Json& spec) {
  const Index dimensions = spec.at("dimensions");
  ConvGeometry made{.dimensions = dimensions,
                    .channels = spec.at("channels"),
                    .width = axis(spec, dimensions == 1 ? 0 : 1),
                    .groups = spec.at("groups")};
  if (dimensions == 2) made.height = axis(spec, 0);
  const std::string mode = spec.at("padding_mode");
  if (mode == "reflect") made.padding_mode = PaddingMode::reflect;
  if (mode == "replicate") made.padding_mode = PaddingMode::replicate;
  if (mode == "circular") made.padding_mode = PaddingMode::circular;
  return made;
}

GroupedWeight<PackedWeight<float>> grouped(const Folder& folder, const std::string& module,
                                           Index groups) {
  const Matrix<float> w =
      folder.base.at(module + ".weight").flattened().to_matrix<float>();  // out x (patch / groups)
  const Vector<float> b = folder.bias(module);
  const Index size = w.rows() / groups;
  std::vector<PackedWeight<float>> parts;
  for (Index group = 0; group < groups; ++group) {
    parts.emplace_back(w.middleRows(group * size, size),
                       b.size() == 0 ? b : Vector<float>(b.segment(group * size, size)));
  }
  return GroupedWeight<PackedWeight<float>>(std::move(parts));
}

/// The layers of a network that is no Mlp, each used by itself.
struct Modules {
  std::deque<LoraLinear<PackedWeight<float>>> linear;
  std::deque<LoraEmbedding<SharedWeight<float>>> embedding;
  std::deque<Conv> conv;
};

template <typename Layer>
void compute(const std::string& name, Layer& layer, Folder& folder) {
  const Matrix<float> x = folder.inputs(name);
  auto& part = detail::adapted_part(layer);
  folder.result.add(name, predict(layer, x).transpose().eval());
  part.merge();
  folder.result.add(name + ".merged", predict(layer, x).transpose().eval());
  part.unmerge();
}

void compute(const std::string& name, LoraEmbedding<SharedWeight<float>>& layer, Folder& folder) {
  const Matrix<float> numbers = folder.inputs(name);
  std::vector<Index> tokens;
  for (const float number : numbers.reshaped()) {
    tokens.push_back(static_cast<Index>(number));
  }
  Matrix<float> y(layer.out_features(), numbers.size());
  auto cache = layer.make_cache(numbers.size());
  const auto output = [&] {
    layer.forward(tokens, y, cache);
    return y.transpose().eval();
  };
  folder.result.add(name, output());
  layer.merge();
  folder.result.add(name + ".merged", output());
  layer.unmerge();
}

void run_modules(const Json& specs, Folder& folder) {
  std::mt19937_64 generator{1};
  Modules layers;
  PeftModules modules;
  for (const Json& spec : specs) {
    const std::string name = spec.at("name"), kind = spec.at("kind");
    const TensorView weight = folder.base.at(name + ".weight");
    if (kind == "linear") {
      layers.linear.emplace_back(PackedWeight<float>(weight.to_matrix<float>(), folder.bias(name)),
                                 LoraOptions{.rank = 1}, generator);
      modules.add(name, layers.linear.back());
    } else if (kind == "embedding") {
      layers.embedding.emplace_back(SharedWeight<float>(weight.to_matrix<float>().transpose()),
                                    LoraOptions{.rank = 1}, generator);
      modules.add(name, layers.embedding.back());
    } else {
      const ConvGeometry shape = geometry(spec);
      layers.conv.emplace_back(grouped(folder, name, shape.groups), shape,
                               LoraOptions{.rank = shape.groups}, generator);
      modules.add(name, layers.conv.back());
    }
  }
  const auto loaded = modules.load(folder.path / "adapter");
  if (!loaded.report.complete()) throw FileError(loaded.report.problems());
  std::size_t linear = 0, embedding = 0, conv = 0;
  for (const Json& spec : specs) {
    const std::string name = spec.at("name"), kind = spec.at("kind");
    if (kind == "linear") {
      compute(name, layers.linear[linear++], folder);
    } else if (kind == "embedding") {
      compute(name, layers.embedding[embedding++], folder);
    } else {
      compute(name, layers.conv[conv++], folder);
    }
  }
  modules.save(folder.path / "saved", loaded.config);
}

Combination combination(const std::string& name) {
  for (const Combination type :
       {Combination::linear, Combination::cat, Combination::svd, Combination::ties,
        Combination::ties_svd, Combination::magnitude_prune, Combination::magnitude_prune_svd}) {
    if (to_string(type) == name) return type;
  }
  throw ArgumentError("no combination is called '" + name + "'");
}

void run_combinations(const Json& cases, Folder& folder) {
  for (const Json& one : cases) {
    std::vector<Factors<float>> factors;
    for (const std::string name : one.at("adapters")) {
      factors.push_back({folder.matrix(name + ".a"), folder.matrix(name + ".b"),
                         one.at("scalings").at(factors.size())});
    }
    std::vector<WeightedFactors<float>> weighted;
    for (const auto& each : factors) {
      weighted.push_back({each, one.at("weights").at(weighted.size())});
    }
    CombineOptions options{.type = combination(one.at("type")), .density = one.at("density")};
    if (one.at("majority") == "frequency") options.majority_sign = MajoritySign::frequency;
    folder.result.add(one.at("name"), combine<float>(weighted, options).delta());
  }
}

void run_initializations(const Json& cases, Folder& folder) {
  for (const Json& one : cases) {
    const std::string name = one.at("name"), kind = one.at("kind");
    const Matrix<float> w = folder.matrix(name + ".w");
    const Index rank = one.at("rank");
    const double scaling = one.at("scaling");
    const Factors<float> made = kind == "pissa" ? pissa(w, rank, scaling) : olora(w, rank, scaling);
    folder.result.add(name + ".delta", made.delta());
    folder.result.add(name + ".base", residual(w, made));
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    for (int i = 1; i < argc; ++i) {
      Folder folder{fs::path(argv[i])};
      const Json settings = Json::parse(std::ifstream(folder.path / "family.json"));
      if (!settings.at("modules").empty()) run_modules(settings.at("modules"), folder);
      run_combinations(settings.at("combine"), folder);
      run_initializations(settings.at("initialize"), folder);
      write_safetensors(folder.path / "result.safetensors", folder.result);
    }
  } catch (const std::exception& error) {
    std::cerr << "loraplus_family: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
