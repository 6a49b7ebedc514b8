// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/optim/optimizer.hpp>

namespace loraplus::inline v0_1 {

/// The learning rates of LoRA+ beside that of the rule.
struct LoraPlusOptions {
  /// lambda = (learning rate of B) / (learning rate of A), positive. No default is right: the
  /// paper found about 16 for RoBERTa with B random at the start, 4 to 8 with A random, 2 to 4 for
  /// Llama (Hayou et al., "LoRA+", section 5.3).
  double ratio = std::numeric_limits<double>::quiet_NaN();
  /// The learning rate of adapters of embeddings, finite and at least 0.
  double embedding_learning_rate = 1e-6;
};

/// LoRA+ (Hayou, Ghosh and Yu, 2024) around an update rule: A learns with eta, the learning rate
/// of the rule, B with ratio * eta. The groups are those of the reference implementation and of
/// PEFT:
///
///     group       parameters                                rate            decay
///     A           A and all other matrices                  eta             of the rule
///     embedding   adapters of embeddings                    embedding rate  of the rule
///     B           B and one-dimensional parameters          ratio * eta     of the rule
///     B_no_decay  biases and gains of normalisation layers  ratio * eta     0
///
/// All four are there even if empty. Mind that the ratio so moves the rate of the biases too.
template <UpdateRule Rule, RealScalar Scalar>
class LoraPlus : public Optimizer<Rule, Scalar> {
 public:
  /// @throws ArgumentError if the ratio is not positive and finite, and as Optimizer
  template <HasParameters Model>
  LoraPlus(const Rule& rule, const LoraPlusOptions& lora_plus, Model& model,
           OptimizerOptions options = {})
      : Optimizer<Rule, Scalar>(rule, make_groups(rule, lora_plus), choose_group, model,
                                std::move(options)) {}

 private:
  enum Group : std::size_t { group_a, group_embedding, group_b, group_b_no_decay };

  static std::size_t choose_group(Role role, bool is_vector) {
    if (role == Role::embedding) return group_embedding;
    if (role == Role::bias || role == Role::norm) return group_b_no_decay;
    return role == Role::lora_b || is_vector ? group_b : group_a;
  }

  static std::vector<ParameterGroup> make_groups(const Rule& rule, const LoraPlusOptions& options) {
    require_argument(std::isfinite(options.ratio) && options.ratio > 0, "LoraPlusOptions",
                     "ratio must be set, positive and finite", options.ratio);
    require_argument(detail::is_finite_nonnegative(options.embedding_learning_rate),
                     "LoraPlusOptions", "embedding_learning_rate must be finite and at least 0",
                     options.embedding_learning_rate);
    rule.validate();
    const double rate_b = options.ratio * rule.learning_rate;
    require_argument(std::isfinite(rate_b), "LoraPlusOptions",
                     "ratio times the learning rate must be finite", rate_b);
    return {{"A", rule.learning_rate, rule.weight_decay},
            {"embedding", options.embedding_learning_rate, rule.weight_decay},
            {"B", rate_b, rule.weight_decay},
            {"B_no_decay", rate_b, 0}};
  }
};

template <typename Rule, typename Model>
LoraPlus(const Rule&, const LoraPlusOptions&, Model&) -> LoraPlus<Rule, typename Model::Scalar>;
template <typename Rule, typename Model>
LoraPlus(const Rule&, const LoraPlusOptions&, Model&, const OptimizerOptions&)
    -> LoraPlus<Rule, typename Model::Scalar>;

}  // namespace loraplus
