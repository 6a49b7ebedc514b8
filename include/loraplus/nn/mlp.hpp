// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <loraplus/nn/activation.hpp>
#include <loraplus/nn/layer.hpp>
#include <loraplus/nn/linear.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace loraplus::inline v0_1 {

/// A multilayer perceptron whose depth and widths are known when the program runs: stages of a
/// named layer and an activation. It is a layer itself.
template <Layer L>
class Mlp {
 public:
  using Scalar = typename L::Scalar;

  /// A layer, by its name, and the activation after it.
  struct Stage {
    /// Unique in the network; what stands before the names of its parameters.
    std::string name;
    /// Takes what the stage before it gives.
    L layer;
    /// After the layer.
    Activation activation = Activation::identity;
  };

  /// All that a pass needs, made once for the largest batch; a smaller one uses its left columns.
  struct StageCache {
    /// That of the layer.
    typename L::Cache layer;
    Matrix<Scalar> preactivation = {};  ///< out x largest batch, if the derivative needs it
    Matrix<Scalar> output = {};         ///< out x largest batch, unless it goes straight to y
    Matrix<Scalar> gradient =
        {};  ///< out x largest batch, of the output, then of the preactivation
  };
  /// One for each stage; one of these for each thread.
  using Cache = std::vector<StageCache>;

  /// @throws ArgumentError if there is no stage or a name stands twice, ShapeError if a layer does
  /// not take what the one before it gives
  explicit Mlp(std::vector<Stage> stages) : stages_(std::move(stages)) {
    if (stages_.empty()) raise<ArgumentError>("Mlp: no layers");
    std::set<std::string_view> names;
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      if (i > 0) require_chained(stages_[i - 1], stages_[i]);
      if (!names.insert(stages_[i].name).second) {
        raise<ArgumentError>("Mlp: two layers are called '" + stages_[i].name + "'");
      }
    }
  }

  Index in_features() const { return stages_.front().layer.in_features(); }
  Index out_features() const { return stages_.back().layer.out_features(); }
  /// The stages, inputs first.
  std::span<Stage> stages() { return stages_; }
  /// The same to read.
  std::span<const Stage> stages() const { return stages_; }

  /// The layer of this name. @throws ArgumentError that lists the names there are
  L& layer(std::string_view name) { return stages_[index_of(name)].layer; }
  /// The same to read. @throws as above
  const L& layer(std::string_view name) const { return stages_[index_of(name)].layer; }

  /// "fc1, fc2, fc3"
  std::string layer_names() const {
    std::string names;
    for (const Stage& stage : stages_) {
      names += (names.empty() ? "" : ", ") + stage.name;
    }
    return names;
  }

  Cache make_cache(Index largest_batch) const {
    Cache cache;
    for (const Stage& stage : stages_) {
      const Index out = stage.layer.out_features();
      StageCache& made = cache.emplace_back(StageCache{stage.layer.make_cache(largest_batch)});
      if (derivative_needs_input(stage.activation)) made.preactivation.resize(out, largest_batch);
      if (is_direct(stage)) continue;
      made.output.resize(out, largest_batch);
      made.gradient.resize(out, largest_batch);
    }
    return cache;
  }

  /// @param x in x n, @param y out x n, @param generator none, or one for training with dropout
  /// @throws ShapeError
  template <RandomBits... Generator>
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache,
               Generator&... generator) const {
    require_shape("Mlp::forward", "x", x, in_features(), x.cols());
    require_shape("Mlp::forward", "y", y, out_features(), x.cols());
    require_cache("Mlp::forward", x.cols(), cache);
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      const Stage& stage = stages_[i];
      StageCache& kept = cache[i];
      const MatrixView<Scalar> output =
          is_direct(stage) ? y : MatrixView<Scalar>(kept.output.leftCols(x.cols()));
      const MatrixView<Scalar> linear =
          derivative_needs_input(stage.activation)
              ? MatrixView<Scalar>(kept.preactivation.leftCols(x.cols()))
              : output;
      loraplus::forward_layer(stage.layer, input(i, x, cache), linear, kept.layer, generator...);
      activate<Scalar>(stage.activation, linear, output);
    }
    if (!is_direct(stages_.back())) y = cache.back().output.leftCols(x.cols());
  }

  /// Adds the gradients of the parameters; goes no lower than the lowest layer that has any.
  /// `x` and `cache` are those of the forward pass. @param x in x n, @param dy out x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, Cache& cache) {
    require_shape("Mlp::backward", "x", x, in_features(), x.cols());
    const std::size_t lowest = lowest_trained();
    if (lowest == stages_.size()) return;
    backward_above(lowest, x, dy, cache);
    stages_[lowest].layer.backward(input(lowest, x, cache), gradient(lowest, x, dy, cache),
                                   cache[lowest].layer);
  }

  /// The same, and dx. @param x, dx in x n, @param dy out x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx,
                Cache& cache) {
    require_shape("Mlp::backward", "x", x, in_features(), x.cols());
    require_shape("Mlp::backward", "dx", dx, in_features(), x.cols());
    backward_above(0, x, dy, cache);
    stages_[0].layer.backward(x, gradient(0, x, dy, cache), dx, cache[0].layer);
  }

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    for (Stage& stage : stages_) {
      visit_part(stage.name, stage.layer, visit);
    }
  }

 private:
  std::size_t index_of(std::string_view name) const {
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      if (stages_[i].name == name) return i;
    }
    raise<ArgumentError>("Mlp: no layer is called '" + std::string(name) + "'; there are " +
                         layer_names());
  }

  static void require_chained(const Stage& below, const Stage& above) {
    if (below.layer.out_features() != above.layer.in_features()) {
      raise<ShapeError>("Mlp: '" + above.name + "' takes " +
                        std::to_string(above.layer.in_features()) + " features, but '" +
                        below.name + "' gives " + std::to_string(below.layer.out_features()));
    }
  }

  void require_cache(std::string_view where, Index samples, const Cache& cache) const {
    if (cache.size() != stages_.size()) {
      raise<StateError>(std::string(where) + ": the cache was made for another network");
    }
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      const Stage& stage = stages_[i];
      if (is_direct(stage)) continue;
      const bool with_input = derivative_needs_input(stage.activation);
      if (cache[i].output.rows() != stage.layer.out_features() ||
          cache[i].preactivation.rows() != (with_input ? stage.layer.out_features() : 0)) {
        raise<StateError>(std::string(where) + ": the cache was made for another network, see '" +
                          stage.name + "'");
      }
      require_batch_fits(where, samples, cache[i].output.cols());
    }
  }

  /// Whether the stage writes its output straight to y: the last one, if it has no activation.
  bool is_direct(const Stage& stage) const {
    return &stage == &stages_.back() && stage.activation == Activation::identity;
  }

  /// What stage i reads, in_i x n.
  ConstMatrixView<Scalar> input(std::size_t i, ConstMatrixView<Scalar> x,
                                const Cache& cache) const {
    return i == 0 ? x : ConstMatrixView<Scalar>(cache[i - 1].output.leftCols(x.cols()));
  }

  /// The gradient of what the layer of stage i wrote, out_i x n.
  ConstMatrixView<Scalar> gradient(std::size_t i, ConstMatrixView<Scalar> x,
                                   ConstMatrixView<Scalar> dy, const Cache& cache) const {
    return is_direct(stages_[i]) ? dy
                                 : ConstMatrixView<Scalar>(cache[i].gradient.leftCols(x.cols()));
  }

  /// The index of the lowest layer that has parameters, or the number of layers.
  std::size_t lowest_trained() {
    std::size_t i = 0;
    while (i < stages_.size() && loraplus::parameter_count(stages_[i].layer) == 0) {
      ++i;
    }
    return i;
  }

  /// The backward pass down to, but not through, the layer of stage `lowest`.
  void backward_above(std::size_t lowest, ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy,
                      Cache& cache) {
    require_shape("Mlp::backward", "dy", dy, out_features(), x.cols());
    require_cache("Mlp::backward", x.cols(), cache);
    if (!is_direct(stages_.back())) through_activation(stages_.size() - 1, dy, cache);
    for (std::size_t i = stages_.size() - 1; i > lowest; --i) {
      auto below = cache[i - 1].gradient.leftCols(x.cols());  // in_i x n
      stages_[i].layer.backward(input(i, x, cache), gradient(i, x, dy, cache), below,
                                cache[i].layer);
      through_activation(i - 1, below, cache);
    }
  }

  /// From the gradient of the output of stage i, out_i x n, to that of what its layer wrote.
  void through_activation(std::size_t i, ConstMatrixView<Scalar> dy, Cache& cache) const {
    StageCache& kept = cache[i];
    const ConstMatrixView<Scalar> y = kept.output.leftCols(dy.cols());
    const ConstMatrixView<Scalar> x =
        derivative_needs_input(stages_[i].activation)
            ? ConstMatrixView<Scalar>(kept.preactivation.leftCols(dy.cols()))
            : y;
    activate_backward<Scalar>(stages_[i].activation, x, y, dy, kept.gradient.leftCols(dy.cols()));
  }

  std::vector<Stage> stages_;
};

/// A trainable network of dense layers fc1, fc2, ... of the given widths, inputs first: the
/// activation after every layer but the last.
/// @throws ArgumentError if there are fewer than two widths or one is not positive
template <RealScalar Scalar, RandomBits Generator>
Mlp<Linear<Scalar>> make_mlp(std::span<const Index> widths, Activation activation,
                             Generator& generator) {
  std::vector<typename Mlp<Linear<Scalar>>::Stage> stages;
  for (std::size_t i = 1; i < widths.size(); ++i) {
    if (widths[i - 1] < 1 || widths[i] < 1) raise<ArgumentError>("make_mlp: a width is below 1");
    const bool is_last = i + 1 == widths.size();
    stages.push_back({"fc" + std::to_string(i), Linear<Scalar>(widths[i], widths[i - 1], generator),
                      is_last ? Activation::identity : activation});
  }
  return Mlp<Linear<Scalar>>(std::move(stages));
}

/// The same for widths in braces.
template <RealScalar Scalar, RandomBits Generator>
Mlp<Linear<Scalar>> make_mlp(std::initializer_list<Index> widths, Activation activation,
                             Generator& generator) {
  return make_mlp<Scalar>(std::span(widths.begin(), widths.size()), activation, generator);
}

}  // namespace loraplus
