// The C++ side of family.py and initial.py. In a folder that it is given
//
//   family.json              what to do
//   base.safetensors         the frozen weights of modules, saved from PyTorch
//   data.safetensors         for each module its inputs, samples first, and the gradients of its
//                            outputs; for "combine" and "convert" the factors of adapters, for
//                            what initialises them a weight, inputs of it, gradients of its outputs
//   adapter/                 an adapter that PEFT saved; for "sets" several, each below its name
//
// it writes
//
//   result.safetensors       for each module its outputs, all gradients, and the outputs of the
//                            merged module; of sets not these, but the outputs of a batch with an
//                            adapter for each sample; what was combined, initialised, converted
//   saved/                   the adapter, saved again
#include <fstream>
#include <iostream>
#include <loraplus/adapter/combine.hpp>
#include <loraplus/adapter/decompose.hpp>
#include <loraplus/adapter/initialize.hpp>
#include <loraplus/adapter/initialize_data.hpp>
#include <loraplus/adapter/initialize_eva.hpp>
#include <loraplus/adapter/lora_conv_set.hpp>
#include <loraplus/adapter/lora_embedding_set.hpp>
#include <loraplus/io/checkpoint.hpp>
#include <loraplus/io/peft_modules.hpp>
#include <loraplus/loraplus.hpp>

namespace {

namespace fs = std::filesystem;
using namespace loraplus;

using Json = nlohmann::json;
using Conv = LoraConv<GroupedWeight<PackedWeight<float>>>;
using Embedding = LoraEmbedding<SharedWeight<float>>;

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
  std::vector<Index> tokens(const std::string& module) const {
    const Matrix<float> numbers = inputs(module);
    std::vector<Index> tokens;
    for (const float number : numbers.reshaped()) {
      tokens.push_back(static_cast<Index>(number));
    }
    return tokens;
  }
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

/// The layers of a network that is no Mlp, each used by itself, with an adapter that PEFT saved.
struct Modules {
  Modules(const Json& specs, const Folder& folder, const fs::path& adapter) {
    std::mt19937_64 generator{1};
    for (const Json& spec : specs) {
      add(spec, folder, generator);
    }
    auto loaded = peft.load(adapter);
    if (!loaded.report.complete()) throw FileError(loaded.report.problems());
    config = loaded.config;
  }

  /// Calls `use` with the name of each layer and the layer, in the order of the specs.
  template <typename Use>
  void for_each(const Json& specs, Use&& use) {
    std::size_t l = 0, e = 0, c = 0;
    for (const Json& spec : specs) {
      const std::string name = spec.at("name"), kind = spec.at("kind");
      if (kind == "linear") {
        use(name, linear[l++]);
      } else if (kind == "embedding") {
        use(name, embedding[e++]);
      } else {
        use(name, conv[c++]);
      }
    }
  }

  PeftModules peft;
  PeftConfig config;
  std::deque<LoraLinear<PackedWeight<float>>> linear;
  std::deque<Embedding> embedding;
  std::deque<Conv> conv;

 private:
  void add(const Json& spec, const Folder& folder, std::mt19937_64& generator) {
    const std::string name = spec.at("name"), kind = spec.at("kind");
    const TensorView weight = folder.base.at(name + ".weight");
    if (kind == "linear") {
      linear.emplace_back(PackedWeight<float>(weight.to_matrix<float>(), folder.bias(name)),
                          LoraOptions{.rank = 1}, generator);
      peft.add(name, linear.back());
    } else if (kind == "embedding") {
      embedding.emplace_back(SharedWeight<float>(weight.to_matrix<float>().transpose()),
                             LoraOptions{.rank = 1}, generator);
      embedding.back().set_padding_index(spec.at("padding"));
      peft.add(name, embedding.back());
    } else {
      const ConvGeometry shape = geometry(spec);
      conv.emplace_back(grouped(folder, name, shape.groups), shape,
                        LoraOptions{.rank = shape.groups}, generator);
      peft.add(name, conv.back());
    }
  }
};

/// The gradient of each parameter under the name of the layer and its own.
template <typename Layer>
void add_gradients(const std::string& name, Layer& layer, Folder& folder) {
  layer.visit_parameters([&](Parameter<float> parameter) {
    detail::with_matrix(parameter, parameter.gradient.data(), [&](const auto& gradient) {
      folder.result.add(name + '.' + parameter.name.str(), gradient);
    });
  });
}

/// A pass there and back. @param layer a layer or a set @param input x, or tokens
template <typename Layer, typename Input, typename Cache>
void pass(const std::string& name, Layer& layer, const Input& input, Cache& cache, Folder& folder) {
  const Matrix<float> dy = folder.inputs(name + ".dy");
  Matrix<float> y(dy.rows(), dy.cols());
  layer.forward(input, y, cache);
  folder.result.add(name + ".y", y.transpose().eval());
  if constexpr (std::same_as<Input, Matrix<float>>) {
    Matrix<float> dx(input.rows(), input.cols());
    layer.backward(input, dy, dx, cache);
    folder.result.add(name + ".dx", dx.transpose().eval());
  } else {
    layer.backward(input, dy, cache);
  }
  add_gradients(name, layer, folder);
}

template <typename Layer, typename Input>
void compute(const std::string& name, Layer& layer, const Input& input, Folder& folder) {
  const Index n = folder.inputs(name).cols();
  auto cache = layer.make_cache(n);
  pass(name, layer, input, cache, folder);
  auto& part = detail::adapted_part(layer);
  part.merge();
  Matrix<float> y(layer.out_features(), n);
  layer.forward(input, y, cache);
  folder.result.add(name + ".merged", y.transpose().eval());
  part.unmerge();
}

template <typename Layer>
void compute(const std::string& name, Layer& layer, Folder& folder) {
  compute(name, layer, folder.inputs(name), folder);
}

void compute(const std::string& name, Embedding& layer, Folder& folder) {
  compute(name, layer, folder.tokens(name), folder);
}

void run_modules(const Json& specs, Folder& folder) {
  Modules modules(specs, folder, folder.path / "adapter");
  modules.for_each(specs,
                   [&](const std::string& name, auto& layer) { compute(name, layer, folder); });
  modules.peft.save(folder.path / "saved", modules.config);
}

/// @param input x, or tokens @param adapters those of the samples
template <typename Set, typename Input>
void compute_set(const std::string& name, Set& set, const Input& input,
                 const std::vector<std::string>& adapters, Folder& folder) {
  const auto n = static_cast<Index>(adapters.size());
  auto cache = set.make_cache(n);
  pass(name, set, input, cache, folder);
  set.assign(cache, adapters);
  Matrix<float> y(set.out_features(), n);
  set.forward(input, y, cache);
  folder.result.add(name + ".mixed", y.transpose().eval());
}

/// A layer of each kind with several adapters: those that are active, and one for each sample.
void run_sets(const Json& settings, Folder& folder) {
  const std::vector<std::string> active = settings.at("active");
  std::map<std::string, Modules> loaded;
  for (const std::string& name : active) {
    loaded.try_emplace(name, settings.at("modules"), folder, folder.path / "adapter" / name);
  }
  const Modules& any = loaded.begin()->second;
  LoraSet linear(any.linear.at(0).weight());
  LoraEmbeddingSet embedding(any.embedding.at(0).weight());
  embedding.set_padding_index(any.embedding.at(0).padding_index());
  LoraConvSet conv(any.conv.at(0).layer().weight(), any.conv.at(0).geometry());
  for (const auto& [name, modules] : loaded) {
    linear.add(name, modules.linear.at(0).adapter());
    embedding.add(name, modules.embedding.at(0));
    conv.add(name, modules.conv.at(0));
  }
  linear.set_active(active);
  embedding.set_active(active);
  conv.set().set_active(active);
  const Json& samples = settings.at("samples");
  compute_set("fc", linear, folder.inputs("fc"), samples.at("fc"), folder);
  compute_set("embed", embedding, folder.tokens("embed"), samples.at("embed"), folder);
  compute_set("conv", conv, folder.inputs("conv"), samples.at("conv"), folder);
}

Combination combination(const std::string& name) {
  for (const Combination type :
       {Combination::linear, Combination::cat, Combination::svd, Combination::ties,
        Combination::ties_svd, Combination::magnitude_prune, Combination::magnitude_prune_svd,
        Combination::dare_linear, Combination::dare_linear_svd, Combination::dare_ties,
        Combination::dare_ties_svd}) {
    if (to_string(type) == name) return type;
  }
  throw ArgumentError("no combination is called '" + name + "'");
}

void run_combinations(const Json& cases, Folder& folder) {
  std::mt19937_64 generator{1};
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
    folder.result.add(one.at("name"), combine<float>(weighted, options, generator).delta());
  }
}

/// @param x in x n: inputs
Factors<float> initialized(const std::string& kind, const Matrix<float>& w, Index rank,
                           double scaling, const Matrix<float>& x) {
  if (kind == "pissa") return pissa(w, rank, scaling);
  if (kind == "olora") return olora(w, rank, scaling);
  CordaStatistics statistics(w.cols(), CordaNormalization::batches);
  statistics.add(x);
  const CordaMethod method = kind == "corda_ipm" ? CordaMethod::ipm : CordaMethod::kpm;
  return corda(w, statistics, rank, scaling, method);
}

void run_initializations(const Json& cases, Folder& folder) {
  for (const Json& one : cases) {
    const std::string name = one.at("name"), kind = one.at("kind");
    const Matrix<float> w = folder.matrix(name + ".w");
    const Index rank = one.at("rank");
    const double scaling = one.at("scaling");
    const Factors<float> made = initialized(kind, w, rank, scaling, folder.inputs(name + ".x"));
    folder.result.add(name + ".delta", made.delta());
    folder.result.add(name + ".base", residual(w, made));
  }
}

LoraGaOptions lora_ga_options(const Json& one) {
  const std::map<std::string, LoraGaDirection> directions{{"ArB2r", LoraGaDirection::arb2r},
                                                          {"A2rBr", LoraGaDirection::a2rbr},
                                                          {"ArBr", LoraGaDirection::arbr}};
  const std::map<std::string, LoraGaScale> scales{{"stable", LoraGaScale::stable},
                                                  {"weight_svd", LoraGaScale::weight_svd},
                                                  {"gd_scale", LoraGaScale::gd_scale},
                                                  {"unit", LoraGaScale::unit}};
  return {.direction = directions.at(one.at("direction")), .scale = scales.at(one.at("scale"))};
}

void run_lora_ga(const Json& cases, Folder& folder) {
  for (const Json& one : cases) {
    const std::string name = one.at("name");
    const Matrix<float> w = folder.matrix(name + ".w");
    LoraGaStatistics statistics(w.rows(), w.cols());
    for (int i = 0; i < one.at("batches"); ++i) {
      const std::string batch = '.' + std::to_string(i);
      statistics.add(folder.inputs(name + ".dy" + batch), folder.inputs(name + ".x" + batch));
    }
    const Factors<float> made = lora_ga(w, statistics.gradient(), one.at("rank"),
                                        one.at("scaling").get<double>(), lora_ga_options(one));
    folder.result.add(name + ".a", made.a);
    folder.result.add(name + ".b", made.b);
    folder.result.add(name + ".base", residual(w, made));
  }
}

/// @param name that of the inputs @param rank that of the layer before it is redistributed
PrincipalComponents components_of_inputs(const std::string& name, int batches, Index rank,
                                         double rho, const Folder& folder) {
  const Index in = folder.inputs(name + ".0").rows();
  EvaStatistics statistics(in);
  for (int i = 0; i < batches; ++i) {
    statistics.add(folder.inputs(name + '.' + std::to_string(i)));
  }
  return principal_components(statistics, largest_eva_rank(rank, rho, in));
}

/// Of each layer s A: B is zero.
void run_eva(const Json& cases, Folder& folder) {
  for (const Json& one : cases) {
    const std::vector<std::string> layers = one.at("layers");
    const Index rank = one.at("rank");
    const double alpha = one.at("alpha"), rho = one.at("rho");
    const auto full_name = [&](std::size_t i) {
      return one.at("name").get<std::string>() + '.' + layers[i];
    };
    std::vector<PrincipalComponents> components;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      components.push_back(
          components_of_inputs(full_name(i), one.at("batches"), rank, rho, folder));
    }
    const std::vector<Index> ranks =
        redistribute_ranks(components, std::vector<Index>(layers.size(), rank), rho);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const double scaling =
          redistributed_alpha(alpha, rank, ranks[i]) / static_cast<double>(ranks[i]);
      const Factors<float> made =
          eva<float>(components[i], 1, ranks[i], scaling, {.whiten = one.at("whiten")});
      folder.result.add(full_name(i), (static_cast<float>(scaling) * made.a).eval());
    }
  }
}

/// Adapters that were begun from the weight, and trained, as plain ones over the untouched weight.
void run_conversions(const Json& cases, Folder& folder) {
  for (const Json& one : cases) {
    const std::string name = one.at("name");
    const auto factors = [&](const std::string& when) {
      return Factors<float>{folder.matrix(name + when + ".a"), folder.matrix(name + when + ".b"),
                            one.at("scaling")};
    };
    folder.result.add(name, to_plain(factors(".trained"), factors(".initial")).delta());
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    for (int i = 1; i < argc; ++i) {
      Folder folder{fs::path(argv[i])};
      const Json settings = Json::parse(std::ifstream(folder.path / "family.json"));
      if (!settings.at("modules").empty()) run_modules(settings.at("modules"), folder);
      if (!settings.at("sets").empty()) run_sets(settings.at("sets"), folder);
      run_combinations(settings.at("combine"), folder);
      run_initializations(settings.at("initialize"), folder);
      run_lora_ga(settings.at("lora_ga"), folder);
      run_eva(settings.at("eva"), folder);
      run_conversions(settings.at("convert"), folder);
      write_safetensors(folder.path / "result.safetensors", folder.result);
    }
  } catch (const std::exception& error) {
    std::cerr << "loraplus_family: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
