// SPDX-License-Identifier: MIT
//
// Networks of linear layers saved by PyTorch as a state dictionary: "fc1.weight" (out x in),
// "fc1.bias", or "0.weight", "2.weight" for a nn.Sequential, or "net.0.weight" within a module.
#pragma once

#include <loraplus/frozen/frozen_linear.hpp>
#include <loraplus/frozen/weight_view.hpp>
#include <loraplus/io/load_report.hpp>
#include <loraplus/io/safetensors.hpp>
#include <loraplus/nn/mlp.hpp>

namespace loraplus::inline v0_1 {

/// What a state dictionary does not tell of a network.
struct MlpLayout {
  /// The modules of the linear layers, inputs first. Empty: every two-dimensional
  /// "<module>.weight", in the order of their names, numbers in names by their value.
  std::vector<std::string> layers = {};
  Activation activation = Activation::relu;  ///< after every layer but the last
  bool allow_unused = false;                 ///< of the tensors of the file; else they are an error
  bool fan_in_fan_out = false;  ///< weights are in x out, as those of transformers' Conv1D
};

/// A network from a file, and what of the file it took.
template <typename Network>
struct Loaded {
  /// The network.
  Network network;
  /// The tensors that were used, and those that were not.
  LoadReport report;
};

namespace detail {

/// "fc2" before "fc10".
inline bool natural_less(std::string_view a, std::string_view b) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const auto number = [&](std::string_view& text) {
    std::size_t end = 0;
    while (end < text.size() && is_digit(text[end])) {
      ++end;
    }
    std::string_view digits = text.substr(0, end);
    text.remove_prefix(end);
    digits.remove_prefix(std::min(digits.find_first_not_of('0'), digits.size()));
    return digits;
  };
  while (!a.empty() && !b.empty()) {
    if (is_digit(a[0]) && is_digit(b[0])) {
      const std::string_view x = number(a), y = number(b);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
    } else {
      if (a[0] != b[0]) return a[0] < b[0];
      a.remove_prefix(1);
      b.remove_prefix(1);
    }
  }
  return a.size() < b.size();
}

/// The modules of all linear layers of a file. @throws FileError if there are none
inline std::vector<std::string> linear_modules(const Safetensors& file) {
  constexpr std::string_view ending = ".weight";
  std::vector<std::string> modules;
  for (const std::string& name : file.names()) {
    if (name.ends_with(ending) && file.at(name).shape.size() == 2) {
      modules.push_back(name.substr(0, name.size() - ending.size()));
    }
  }
  if (modules.empty()) {
    throw FileError(file.name() + " has no linear layer, a two-dimensional '<module>.weight'");
  }
  std::sort(modules.begin(), modules.end(), natural_less);
  return modules;
}

/// The stages of a network, each made by `make(weight, bias)` from its tensors; a bias may be null.
template <typename Network, typename Make>
Loaded<Network> load_stages(const Safetensors& file, const MlpLayout& layout, Make&& make) {
  const auto modules = layout.layers.empty() ? linear_modules(file) : layout.layers;
  std::vector<typename Network::Stage> stages;
  LoadReport report;
  for (const std::string& module : modules) {
    const TensorView weight = file.at(module + ".weight");
    if (weight.shape.size() != 2) weight.fail("must have two dimensions");
    if (weight.rows() == 0 || weight.cols() == 0) weight.fail("must have elements");
    report.used.push_back(weight.name);
    std::optional<TensorView> bias;
    if (file.contains(module + ".bias")) {
      bias = file.at(module + ".bias");
      const Index out = layout.fan_in_fan_out ? weight.cols() : weight.rows();
      if (bias->shape != std::vector<Index>{out}) {
        bias->fail("must have the " + std::to_string(out) + " outputs of '" + weight.name + "'");
      }
      report.used.push_back(bias->name);
    }
    const bool is_last = stages.size() + 1 == modules.size();
    stages.push_back(
        {module, make(weight, bias), is_last ? Activation::identity : layout.activation});
  }
  report.report_unused(file.names());
  if (!layout.allow_unused && !report.unexpected.empty()) {
    throw FileError(file.name() + " has tensors that no linear layer uses, " + report.problems());
  }
  return {Network(std::move(stages)), std::move(report)};
}

}  // namespace detail

/// A network that is trained in full, or is to be frozen and adapted: a copy of the tensors,
/// converted. Its layers are called as the modules are, so that adapters on them have PEFT's names.
/// @throws FileError for a tensor that is missing or not used, or of the wrong shape; ShapeError if
/// a layer does not take what the one before it gives
template <RealScalar Scalar>
Loaded<Mlp<Linear<Scalar>>> load_mlp(const Safetensors& file, const MlpLayout& layout = {}) {
  return detail::load_stages<Mlp<Linear<Scalar>>>(
      file, layout, [&](const TensorView& weight, const std::optional<TensorView>& bias) {
        Matrix<Scalar> w = weight.to_matrix<Scalar>();
        if (layout.fan_in_fan_out) w.transposeInPlace();
        return Linear<Scalar>(std::move(w), bias ? bias->to_vector<Scalar>() : Vector<Scalar>());
      });
}

/// The same network frozen, its weights used where the file has them: nothing is read before it is
/// used. The file must live as long as the network.
/// @throws also FileError if the elements are of another type or not aligned, ArgumentError for
/// fan_in_fan_out
template <RealScalar Scalar>
Loaded<Mlp<FrozenLinear<WeightView<Scalar, Eigen::RowMajor>>>> map_mlp(
    const Safetensors& file, const MlpLayout& layout = {}) {
  using Weight = WeightView<Scalar, Eigen::RowMajor>;
  if (layout.fan_in_fan_out) {
    throw ArgumentError("map_mlp: weights stored in x out cannot be used in place, use load_mlp");
  }
  return detail::load_stages<Mlp<FrozenLinear<Weight>>>(
      file, layout, [](const TensorView& weight, const std::optional<TensorView>& bias) {
        const auto w = weight.in_place<Scalar>();
        if (!bias) return FrozenLinear(Weight(w));
        const auto b = bias->in_place<Scalar>();
        return FrozenLinear(Weight(w, Eigen::Map<const Vector<Scalar>>(b.data(), b.size())));
      });
}

}  // namespace loraplus
