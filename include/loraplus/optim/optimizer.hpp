// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <limits>
#include <loraplus/core/parameter.hpp>
#include <loraplus/optim/factor_pair.hpp>
#include <loraplus/optim/schedule.hpp>
#include <loraplus/optim/update_rule.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace loraplus::inline v0_1 {

/// Parameters that share a learning rate and a weight decay.
struct ParameterGroup {
  /// "A", or for an override "bias of B_no_decay".
  std::string name;
  double learning_rate;  ///< before the schedule
  /// As the rule takes it.
  double weight_decay;
  std::vector<std::string> parameters = {};  ///< their full names, in visiting order
};

/// Takes parameters out of their groups into one of their own, which keeps what is not set here.
/// The parameters are told by role or by full name; a later override wins over an earlier one.
struct GroupOverride {
  /// All parameters of this role; either this or `parameter` is set.
  std::optional<Role> role = {};
  /// The parameter of this full name.
  std::string parameter = {};
  /// Before the schedule.
  std::optional<double> learning_rate = {};
  /// In the place of that of the group.
  std::optional<double> weight_decay = {};
};

/// What an optimizer does besides its rule.
struct OptimizerOptions {
  /// Multiplies every learning rate.
  Schedule schedule = {};
  /// The largest 2-norm of all gradients together; larger ones are scaled down to it.
  double clip_norm = std::numeric_limits<double>::infinity();
  /// Calls of step() that make one update, by the mean of their gradients.
  Index accumulation = 1;
  /// Applied in this order.
  std::vector<GroupOverride> overrides = {};
};

/// Moves the parameters of one model by an update rule, group by group. It is made for a model:
/// its state is laid out once, by order of visiting, and a step allocates nothing.
template <UpdateRule Rule, RealScalar Scalar>
class Optimizer {
 public:
  /// One group, "all", with the learning rate and the weight decay of the rule.
  /// @throws ArgumentError for a setting out of its range, an override that matches nothing, or a
  /// rule for pairs of factors (PairRule) and a model that has none, does not show them as pairs,
  /// or has a factor of zero that the rule leaves so
  template <HasParameters Model>
  Optimizer(const Rule& rule, Model& model, OptimizerOptions options = {})
      : Optimizer(
            rule, {{"all", rule.learning_rate, rule.weight_decay}},
            [](Role /*role*/, bool /*is_vector*/) { return std::size_t{0}; }, model,
            std::move(options)) {}

  /// Updates the parameters by their gradients, then sets the gradients to zero. With
  /// accumulation, only every so-manyth call does, by the mean; the others leave all as it is.
  /// @return whether the parameters were updated
  /// @throws StateError if the parameters are not those of construction, NonFiniteError if there
  /// is a clip_norm and the norm is not finite, or a PairRule meets a factor that is not finite.
  /// Parameters and state are untouched then; the gradients stay to be looked at, zero_gradients
  /// clears the way for the next step.
  template <HasParameters Model>
  bool step(Model& model) {
    require_same_parameters(model);
    if (++pending_ < options_.accumulation) return false;
    pending_ = 0;
    const double scale = gradient_scale(model);
    precondition(model);
    const double factor = options_.schedule.factor(steps_);
    std::size_t index = 0;
    model.visit_parameters([&](Parameter<Scalar> parameter) {
      Slot& slot = slots_[index++];
      if (slot.frozen) {
        parameter.gradient.setZero();
        return;
      }
      const ParameterGroup& group = groups_[slot.group];
      update(parameter, slot.state, static_cast<Scalar>(scale),
             {factor * group.learning_rate, group.weight_decay, steps_ + 1});
    });
    ++steps_;
    return true;
  }

  /// The updates made so far.
  Index steps() const { return steps_; }

  /// The calls of step() since the last update; 0 without accumulation.
  Index pending() const { return pending_; }

  /// What it was made with.
  const OptimizerOptions& options() const { return options_; }

  /// Calls `visitor(name, state)` with the moments of each parameter, coefficients x moments, to be
  /// stored, or set to what was.
  template <typename Visitor>
  void visit_state(Visitor&& visitor) {
    for (Slot& slot : slots_) {
      visitor(std::as_const(slot.name), slot.state);
    }
  }

  /// Goes on as after so many updates, and so many calls since; the moments are set by visit_state.
  /// @throws ArgumentError if a number is negative, or there are more calls than accumulation lets
  void set_progress(Index steps, Index pending) {
    require_argument(steps >= 0, "Optimizer::set_progress", "steps must be at least 0",
                     static_cast<double>(steps));
    require_argument(pending >= 0 && pending < options_.accumulation, "Optimizer::set_progress",
                     "pending must be at least 0 and below accumulation",
                     static_cast<double>(pending));
    steps_ = steps;
    pending_ = pending;
  }

  /// The rule with its settings.
  const Rule& rule() const { return rule_; }

  /// Every group with its rate, decay and parameters; a group may be empty.
  std::span<const ParameterGroup> groups() const { return groups_; }

  /// The group of the parameter of this full name. @throws ArgumentError if there is none
  const ParameterGroup& group_of(std::string_view parameter) const {
    for (const Slot& slot : slots_) {
      if (slot.name == parameter) return groups_[slot.group];
    }
    raise<ArgumentError>("Optimizer: no parameter is called '" + std::string(parameter) +
                         "'; there are " + parameter_names());
  }

  /// The bytes held for moments.
  std::size_t state_bytes() const {
    std::size_t bytes = 0;
    for (const Slot& slot : slots_) {
      bytes += static_cast<std::size_t>(slot.state.size()) * sizeof(Scalar);
    }
    return bytes;
  }

 protected:
  /// @param choose from a parameter's role and whether it is one-dimensional to its group's index
  template <typename Choose, HasParameters Model>
  Optimizer(const Rule& rule, std::vector<ParameterGroup> groups, Choose choose, Model& model,
            OptimizerOptions options)
      : rule_(rule), options_(std::move(options)), groups_(std::move(groups)) {
    static_assert(std::is_same_v<typename Model::Scalar, Scalar>,
                  "loraplus: the optimizer and the model have different scalar types");
    validate();
    detail::FactorOrder<Rule> order;
    model.visit_parameters([&](const Parameter<Scalar>& parameter) {
      const bool frozen = detail::freezes<Rule>(order.next(parameter.role));
      const Index moments = frozen ? 0 : rule_.state_count();
      slots_.push_back({parameter.name.str(), parameter.role, frozen,
                        choose(parameter.role, parameter.is_vector),
                        OptimizerState<Scalar>::Zero(parameter.size(), moments)});
    });
    if constexpr (PairRule<Rule>) solver_.emplace(largest_rank(model));
    for (const GroupOverride& override : options_.overrides) {
      apply(override);
    }
    for (const Slot& slot : slots_) {
      groups_[slot.group].parameters.push_back(slot.name);
    }
  }

 private:
  struct Slot {
    std::string name;
    Role role = Role::weight;
    bool frozen = false;  // by the rule
    std::size_t group = 0;
    OptimizerState<Scalar> state;  // size of the parameter x state_count
  };

  void validate() const {
    rule_.validate();
    options_.schedule.validate();
    require_argument(options_.clip_norm > 0, "OptimizerOptions", "clip_norm must be positive",
                     options_.clip_norm);
    require_argument(options_.accumulation >= 1, "OptimizerOptions",
                     "accumulation must be at least 1", static_cast<double>(options_.accumulation));
  }

  /// Moves each matching slot into a new group that inherits from the slot's old one.
  void apply(const GroupOverride& override) {
    const std::string label =
        override.role ? std::string(to_string(*override.role)) : override.parameter;
    if (override.role.has_value() == !override.parameter.empty()) {
      raise<ArgumentError>("GroupOverride: set either role or parameter");
    }
    std::vector<std::pair<std::size_t, std::size_t>> moved;  // from an old group to its new one
    for (Slot& slot : slots_) {
      const bool matches =
          override.role ? slot.role == *override.role : slot.name == override.parameter;
      if (!matches) continue;
      auto known = moved.begin();
      while (known != moved.end() && known->first != slot.group) {
        ++known;
      }
      if (known == moved.end()) {
        moved.emplace_back(slot.group, groups_.size());
        known = moved.end() - 1;
        const ParameterGroup& old = groups_[slot.group];
        ParameterGroup made{label + " of " + old.name,
                            override.learning_rate.value_or(old.learning_rate),
                            override.weight_decay.value_or(old.weight_decay)};
        detail::require_rate_and_decay("GroupOverride", made.learning_rate, made.weight_decay);
        groups_.push_back(std::move(made));
      }
      slot.group = known->second;
    }
    if (moved.empty()) {
      raise<ArgumentError>(std::string("GroupOverride: no parameter ") +
                           (override.role ? "has the role '" : "is called '") + label +
                           "'; there are " + parameter_names());
    }
  }

  /// Scales the gradient, moves the parameter and sets the gradient to zero: an elementwise rule
  /// does so in parts that stay in the first cache.
  void update(Parameter<Scalar>& parameter, OptimizerState<Scalar>& state, Scalar scale,
              const UpdateContext& context) const {
    const Index part = detail::is_elementwise<Rule> ? 1024 : std::max<Index>(1, parameter.size());
    const bool has_state = state.size() > 0;  // else it has no memory to point into
    for (Index first = 0; first < parameter.size(); first += part) {
      const Index count = std::min(part, parameter.size() - first);
      auto gradient = parameter.gradient.segment(first, count);
      if (scale != 1) gradient *= scale;
      rule_.template update<Scalar>(parameter.value.segment(first, count), gradient,
                                    state.middleRows(has_state ? first : 0, count), context);
      gradient.setZero();
    }
  }

  /// The model is the one of construction, as far as number, names, sizes and roles tell.
  template <typename Model>
  void require_same_parameters(Model& model) const {
    std::size_t count = 0;
    model.visit_parameters([&](const Parameter<Scalar>& parameter) {
      if (count < slots_.size() &&
          !(slots_[count].state.rows() == parameter.size() &&
            slots_[count].role == parameter.role && parameter.name == slots_[count].name)) {
        raise<StateError>("Optimizer: parameter '" + parameter.name.str() + "' has " +
                          std::to_string(parameter.size()) + " coefficients, at construction '" +
                          slots_[count].name + "' had " +
                          std::to_string(slots_[count].state.rows()) + "; its role is " +
                          std::string(to_string(parameter.role)) + ", it was " +
                          std::string(to_string(slots_[count].role)));
      }
      ++count;
    });
    if (count != slots_.size()) {
      raise<StateError>("Optimizer: the model has " + std::to_string(count) +
                        " parameters, at construction it had " + std::to_string(slots_.size()));
    }
  }

  /// What the summed gradients are multiplied by: the mean over accumulated calls, then clipping
  /// as PyTorch's clip_grad_norm_ does, by clip_norm / (norm + 1e-6) if that is below 1.
  template <typename Model>
  double gradient_scale(Model& model) const {
    const double mean = 1 / static_cast<double>(options_.accumulation);
    if (std::isinf(options_.clip_norm)) return mean;
    double square = 0;
    model.visit_parameters([&](const Parameter<Scalar>& parameter) {
      square += static_cast<double>(parameter.gradient.matrix().squaredNorm());
      if (!std::isfinite(square)) {
        raise<NonFiniteError>("Optimizer: the gradient norm is not finite at parameter '" +
                              parameter.name.str() + "'");
      }
    });
    return mean * std::min(1.0, options_.clip_norm / (mean * std::sqrt(square) + 1e-6));
  }

  /// Calls `use` with each pair of factors and the name of its B.
  /// @throws ArgumentError if a factor stands alone, or is stored in the order that a pair is not
  template <typename Model, typename Use>
  static void visit_pairs(Model& model, Use&& use) {
    std::optional<Parameter<Scalar>> a;
    const auto require = [](bool valid, const Parameter<Scalar>& factor, const char* what) {
      if (!valid) raise<ArgumentError>("Optimizer: '" + factor.name.str() + "' " + what);
    };
    detail::FactorOrder<Rule> order;
    model.visit_parameters([&](Parameter<Scalar> p) {
      const FactorKind factor = order.next(p.role);
      if (factor == FactorKind::a) {
        require(!a, p, "follows another A: a B must follow each");
        require(p.is_row_major || p.rows <= 1 || p.cols <= 1, p, "must be row-major, r x in");
        a.emplace(p);
      } else if (factor == FactorKind::b) {
        require(a && a->rows == p.cols, p, "must follow an A of its rank");
        require(!p.is_row_major || p.rows <= 1 || p.cols <= 1, p, "must be column-major, out x r");
        FactorPair<Scalar> pair{{a->value.data(), a->rows, a->cols},
                                {p.value.data(), p.cols, p.rows},
                                {a->gradient.data(), a->rows, a->cols},
                                {p.gradient.data(), p.cols, p.rows},
                                p.scaling};
        a.reset();
        use(pair, p.name);
      } else {
        require(!a, p, "stands between an A and its B");
      }
    });
    if (a) raise<ArgumentError>("Optimizer: the last A of the model has no B");
  }

  /// @throws ArgumentError if there are no pairs, or nothing would ever be learned in one
  template <typename Model>
  static Index largest_rank(Model& model) {
    Index rank = 0;
    visit_pairs(model, [&](const FactorPair<Scalar>& pair, const QualifiedName& name) {
      rank = std::max(rank, pair.a.rows());
      if (detail::freezes<Rule>(FactorKind::a) && pair.a.isZero(0)) {
        raise<ArgumentError>("Optimizer: '" + name.str() +
                             "' would never learn, for its A is zero and the rule leaves it so; A "
                             "must be drawn (an embedding's is with Initialization::both_uniform)");
      }
    });
    if (rank == 0) {
      raise<ArgumentError>(
          "Optimizer: the rule is one for adapters, and the model has none with a "
          "pair of lora_A and lora_B");
    }
    return rank;
  }

  template <typename Model>
  void precondition(Model& model) {
    if constexpr (PairRule<Rule>) {
      visit_pairs(model, [&](FactorPair<Scalar>& pair, const QualifiedName& name) {
        if (!rule_.precondition(pair, *solver_)) {
          raise<NonFiniteError>("Optimizer: the adapter of '" + name.str() +
                                "' has factors that are not finite, or too large for the "
                                "regularization of the rule");
        }
      });
    }
  }

  std::string parameter_names() const {
    std::string names;
    for (const Slot& slot : slots_) {
      names += (names.empty() ? "" : ", ") + slot.name;
    }
    return names;
  }

  Rule rule_;
  OptimizerOptions options_;
  std::vector<ParameterGroup> groups_;
  std::vector<Slot> slots_;           // a parameter each, in visiting order
  std::optional<GramSolver> solver_;  // for a PairRule
  Index steps_ = 0;
  Index pending_ = 0;  // calls of step() since the last update
};

template <typename Rule, typename Model>
Optimizer(const Rule&, Model&) -> Optimizer<Rule, typename Model::Scalar>;
template <typename Rule, typename Model>
Optimizer(const Rule&, Model&, const OptimizerOptions&) -> Optimizer<Rule, typename Model::Scalar>;

}  // namespace loraplus
