// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/adapter.hpp>
#include <loraplus/frozen/shared_weight.hpp>

namespace loraplus::inline v0_1 {

/// By which names and roles an embedding shows the factors of its adapter.
inline constexpr FactorNames embedding_factors{"lora_embedding_A", "lora_embedding_B",
                                               Role::embedding, Role::embedding};

namespace detail {

/// @throws ArgumentError if there is what an embedding does not have
inline void require_embedding(const std::string& where, bool dropout, bool lora_bias, bool groups) {
  const auto refuse = [&](bool found, const char* what) {
    if (found) raise<ArgumentError>(where + ": an embedding has no " + what);
  };
  refuse(dropout, "dropout: its inputs are tokens");
  refuse(lora_bias, "lora_bias");
  refuse(groups, "groups of outputs");
}

/// The same of an adapter.
template <typename Scalar>
void require_embedding(const std::string& where, const Adapter<Scalar>& adapter) {
  require_embedding(where, adapter.dropout() > 0, adapter.factors().has_bias(),
                    !adapter.factors().blocks().is_whole());
}

}  // namespace detail

/// A frozen embedding with a low-rank adapter: for a token t
///
///     y = W[:, t] + s B A[:, t]
///
/// W is dim x vocabulary, a column a token: in memory what PyTorch has as vocabulary x dim. As in
/// PEFT the adapter starts with A = 0 and B ~ N(0, 1) (both ~ N(0, 1) for both_uniform), and its
/// factors are of Role::embedding, for which LoRA+ has a learning rate of its own.
template <LookupWeight Frozen>
class LoraEmbedding {
 public:
  using Scalar = typename Frozen::Scalar;

  /// What a forward pass keeps for the backward pass, and scratch; one for each thread.
  struct Cache {
    /// That of the adapter.
    typename Adapter<Scalar>::Cache adapter;
    Index samples = -1;                      ///< of the last forward pass through the adapter
    std::shared_ptr<const char> owner = {};  ///< the identity of the layer of that pass
  };

  /// @throws ArgumentError if an option is out of its range, or is dropout, lora_bias or a
  /// BiasMode, which an embedding does not have
  template <RandomBits Generator>
  LoraEmbedding(Frozen weight, const LoraOptions& options, Generator& generator)
      : weight_(std::move(weight)), adapter_(make_adapter(weight_, options, generator)) {}

  /// With factors from elsewhere. @param options of which dora is asked
  /// @throws as above, ShapeError if the factors do not fit
  LoraEmbedding(Frozen weight, const Factors<Scalar>& factors, const LoraOptions& options = {})
      : weight_(std::move(weight)), adapter_(weight_, LowRank<Scalar>(factors), checked(options)) {}

  /// With an adapter that was made for a weight of this shape, as a LoraEmbeddingSet has them. With
  /// DoRA the weight must be the same: its norms are in the adapter.
  /// @throws ShapeError, ArgumentError if the adapter has what an embedding does not have
  LoraEmbedding(Frozen weight, Adapter<Scalar> adapter)
      : weight_(std::move(weight)), adapter_(std::move(adapter)) {
    adapter_.require_fits("LoraEmbedding", weight_.out_features(), vocabulary());
    detail::require_embedding("LoraEmbedding", adapter_);
    adapter_.factors().hold_gradients();
  }

  /// An adapter as the layer draws it, by itself. @throws as the constructors
  template <RandomBits Generator>
  static Adapter<Scalar> make_adapter(const Frozen& weight, const LoraOptions& options,
                                      Generator& generator) {
    return {weight, LowRank<Scalar>(drawn(weight, checked(options), generator)), options};
  }

  /// The tokens that there are.
  Index vocabulary() const { return weight_.in_features(); }
  Index out_features() const { return weight_.out_features(); }
  Index rank() const { return adapter_.rank(); }
  Scalar scaling() const { return factors().scaling(); }
  const Frozen& weight() const { return weight_; }
  /// A, B and their gradients.
  const LowRank<Scalar>& factors() const { return adapter_.factors(); }
  /// The factors and, with DoRA, the magnitude.
  const Adapter<Scalar>& adapter() const { return adapter_; }
  /// The magnitude of DoRA, one for each dimension, or null.
  const Magnitude<Scalar>* magnitude() const { return adapter_.magnitude(); }

  /// Replaces A and B, not the scaling. @throws ShapeError, StateError if the layer is merged
  void set_factors(const Factors<Scalar>& trained) {
    require_unmerged("set_factors");
    adapter_.factors().set_factors(trained);
  }
  /// @param m out @throws ShapeError, StateError if the layer is merged or has no DoRA
  void set_magnitude(const Vector<Scalar>& m) {
    require_unmerged("set_magnitude");
    if (magnitude() == nullptr) raise<StateError>("LoraEmbedding: there is no DoRA");
    adapter_.magnitude()->set_values(m);
  }

  /// The token that only fills a batch up, padding_idx of PyTorch: it is looked up as any other,
  /// but A learns nothing of it. @throws ArgumentError if it is not in the vocabulary
  void set_padding_index(Index token) {
    require_tokens("LoraEmbedding::set_padding_index", {&token, 1}, vocabulary());
    padding_ = token;
  }
  /// That token, or -1.
  Index padding_index() const { return padding_; }

  /// A disabled adapter leaves the frozen embedding.
  void set_enabled(bool enabled) { enabled_ = enabled; }
  bool enabled() const { return enabled_; }

  Cache make_cache(Index largest_batch) const { return {adapter_.make_cache(largest_batch)}; }

  /// @param tokens n of them, @param y out x n
  /// @throws ArgumentError that names a token that is not in the vocabulary, ShapeError
  void forward(std::span<const Index> tokens, MatrixView<Scalar> y, Cache& cache) const {
    const auto n = static_cast<Index>(tokens.size());
    require_shape("LoraEmbedding::forward", "y", y, out_features(), n);
    require_tokens("LoraEmbedding::forward", tokens, vocabulary());
    cache.samples = -1;
    if (!enabled_) return weight_.lookup(tokens, y);
    if (merged()) return merged_->lookup(tokens, y);
    if (!adapter_.fits(cache.adapter)) {
      raise<StateError>("LoraEmbedding: the cache was made for another layer");
    }
    require_batch_fits("LoraEmbedding::forward", n, cache.adapter.h.cols());
    weight_.lookup(tokens, y);
    adapter_.project(tokens, Scalar(1), cache.adapter);
    adapter_.add(weight_, y, Scalar(1), cache.adapter);
    if (cache.owner != identity_) cache.owner = identity_;
    cache.samples = n;
  }

  /// Adds the gradients of A, B and m. @param tokens those of the forward pass, @param dy out x n
  /// @throws ShapeError, StateError if the layer is merged, or the forward pass was of another
  /// layer or another n
  void backward(std::span<const Index> tokens, ConstMatrixView<Scalar> dy, Cache& cache) {
    const auto n = static_cast<Index>(tokens.size());
    require_shape("LoraEmbedding::backward", "dy", dy, out_features(), n);
    require_tokens("LoraEmbedding::backward", tokens, vocabulary());
    if (!enabled_) return;
    require_unmerged("backward");
    if (cache.samples != n || cache.owner != identity_) {
      raise<StateError>("LoraEmbedding::backward: " + std::to_string(n) +
                        " tokens do not follow a forward pass of as many through this layer with "
                        "this cache");
    }
    const ConstMatrixView<Scalar> g = adapter_.backward_magnitude(dy, cache.adapter);
    adapter_.backward_factors(tokens, g, Scalar(1), cache.adapter, padding_);
  }

  /// W + s B A, out x vocabulary, its rows scaled with DoRA. @throws NonFiniteError
  Matrix<Scalar> merged_weight() const requires DenseWeight<Frozen> {
    const Matrix<Scalar> w0 = loraplus::to_matrix(weight_);
    Matrix<Scalar> w = w0;
    Vector<Scalar> extra = Vector<Scalar>::Zero(out_features());
    adapter_.merge_into(w0, w, extra);
    if (!w.allFinite()) raise<NonFiniteError>("LoraEmbedding: the merged weight is not finite");
    return w;
  }

  /// From here on `forward` is a lookup in W + s B A. The frozen weight is left as it is.
  /// @throws NonFiniteError if it is not finite; nothing is changed then
  void merge() requires DenseWeight<Frozen> {
    if (!merged()) merged_.emplace(merged_weight());
  }
  /// Exact: the frozen weight was not changed.
  void unmerge() { merged_.reset(); }
  /// Whether the adapter is in the table that is looked up.
  bool merged() const { return merged_.has_value(); }

  /// Shows lora_embedding_A, lora_embedding_B. @throws StateError if the layer is merged
  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    require_unmerged("visit_parameters");
    adapter_.visit_parameters(visit, embedding_factors);
  }

 private:
  static const LoraOptions& checked(const LoraOptions& options) {
    detail::require_embedding("LoraEmbedding", options.dropout > 0, options.lora_bias,
                              !options.enabled_groups.empty());
    if (options.bias != BiasMode::none) {
      raise<ArgumentError>("LoraEmbedding: an embedding has no bias to train");
    }
    return validate(options);
  }

  template <RandomBits Generator>
  static Factors<Scalar> drawn(const Frozen& weight, const LoraOptions& options,
                               Generator& generator) {
    Factors<Scalar> made{RowMajorMatrix<Scalar>::Zero(options.rank, weight.in_features()),
                         Matrix<Scalar>(weight.out_features(), options.rank),
                         lora_scaling(options)};
    if (options.initialization == Initialization::both_uniform) {
      loraplus::fill_normal(made.a, generator, options.init_scale);
    }
    loraplus::fill_normal(made.b, generator, options.init_scale);
    return made;
  }

  void require_unmerged(const char* what) const {
    if (merged()) {
      raise<StateError>(std::string("LoraEmbedding: ") + what + " needs unmerge() first");
    }
  }

  Frozen weight_;
  Adapter<Scalar> adapter_;
  bool enabled_ = true;
  Index padding_ = -1;                          // a token, or none
  std::optional<SharedWeight<Scalar>> merged_;  // W + s B A
  // One for a layer and its copies, which have all shapes in common.
  std::shared_ptr<const char> identity_ = std::make_shared<const char>();
};

template <LookupWeight Frozen, RandomBits Generator>
LoraEmbedding(Frozen, const LoraOptions&, Generator&) -> LoraEmbedding<Frozen>;

}  // namespace loraplus
