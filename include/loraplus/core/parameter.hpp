// SPDX-License-Identifier: MIT
//
// What an optimizer sees of a model: its trainable parameters, one after the other, each with a
// value, a gradient, a role and a name. A model shows them through visit_parameters.
#pragma once

#include <loraplus/core/matrix.hpp>
#include <string>
#include <string_view>

namespace loraplus::inline v0_1 {

/// What a parameter is for. Learning rates and weight decay are chosen by role.
enum class Role {
  weight,     ///< a matrix trained in full
  bias,       ///< added to an output; never decayed by LoRA+
  norm,       ///< the gain of a normalisation layer; never decayed by LoRA+
  lora_a,     ///< the down-projection A, r x in
  lora_b,     ///< the up-projection B, out x r
  magnitude,  ///< the magnitude of a weight-decomposed adapter
  embedding,  ///< a factor of an adapter on an embedding
};

/// The name of the enumerator.
constexpr std::string_view to_string(Role role) {
  switch (role) {
    case Role::weight:
      return "weight";
    case Role::bias:
      return "bias";
    case Role::norm:
      return "norm";
    case Role::lora_a:
      return "lora_a";
    case Role::lora_b:
      return "lora_b";
    case Role::magnitude:
      return "magnitude";
    case Role::embedding:
      return "embedding";
  }
  return "unknown";
}

/// A name in nested models, "encoder.fc1.lora_A", as a chain of parts on the stack: visiting the
/// parameters of a model allocates nothing.
struct QualifiedName {
  /// The outermost part.
  std::string_view part;
  /// The rest, or null.
  const QualifiedName* inner = nullptr;

  /// Whether this is the name, without putting it together.
  bool operator==(std::string_view name) const {
    for (const QualifiedName* next = this; next != nullptr; next = next->inner) {
      if (!name.starts_with(next->part)) return false;
      name.remove_prefix(next->part.size());
      if (next->inner == nullptr) return name.empty();
      if (!name.starts_with('.')) return false;
      name.remove_prefix(1);
    }
    return false;
  }

  /// Put together, with dots.
  std::string str() const {
    std::string name(part);
    for (const QualifiedName* next = inner; next != nullptr; next = next->inner) {
      name += '.';
      name += next->part;
    }
    return name;
  }
};

/// A trainable parameter, seen in place while a model is visited. Not to be kept: the name and
/// the maps point into the model.
template <RealScalar Scalar_>
struct Parameter {
  using Scalar = Scalar_;
  /// Coefficients in storage order.
  using FlatMap = Eigen::Map<Eigen::Array<Scalar, Eigen::Dynamic, 1>>;

  /// Within the model that is visited.
  QualifiedName name;
  /// What it is for.
  Role role;
  /// Of the matrix; of a vector its size.
  Index rows;
  /// Of the matrix; of a vector 1.
  Index cols;
  bool is_vector;     ///< one-dimensional, as a bias
  bool is_row_major;  ///< the order of the coefficients in `value` and `gradient`
  FlatMap value;      ///< rows * cols coefficients in storage order
  FlatMap gradient;   ///< the same size and order
  Scalar scaling;     ///< s of the adapter whose factor this is, else 1

  /// `values` and `gradients` have one shape.
  template <typename Plain>
  Parameter(std::string_view part, Role purpose, Eigen::PlainObjectBase<Plain>& values,
            Eigen::PlainObjectBase<Plain>& gradients, Scalar adapter_scaling = Scalar(1))
      : Parameter(part, purpose, Eigen::Map<Plain>(values.data(), values.rows(), values.cols()),
                  Eigen::Map<Plain>(gradients.data(), gradients.rows(), gradients.cols()),
                  adapter_scaling) {}

  /// The same for a contiguous part of a matrix.
  template <typename Plain>
  Parameter(std::string_view part, Role purpose, Eigen::Map<Plain> values,
            Eigen::Map<Plain> gradients, Scalar adapter_scaling = Scalar(1))
      : name{part},
        role(purpose),
        rows(values.rows()),
        cols(values.cols()),
        is_vector(Plain::IsVectorAtCompileTime),
        is_row_major(Plain::IsRowMajor),
        value(values.data(), values.size()),
        gradient(gradients.data(), gradients.size()),
        scaling(adapter_scaling) {}

  /// rows * cols.
  Index size() const { return value.size(); }
};

namespace detail {

template <typename Scalar>
struct ParameterVisitor {
  void operator()(const Parameter<Scalar>& parameter) const;
};

}  // namespace detail

/// A model that shows its trainable parameters: `model.visit_parameters(visitor)` calls
/// `visitor(Parameter<Scalar>)` for each of them, always in the same order.
template <typename Model>
concept HasParameters = requires {
  typename Model::Scalar;
}
&&requires(Model& model, detail::ParameterVisitor<typename Model::Scalar> v) {
  model.visit_parameters(v);
};

namespace detail {

/// A visitor that puts the name of a part before those of its parameters.
template <RealScalar Scalar, typename Visitor>
auto visitor_of_part(std::string_view part, Visitor& visit) {
  return [part, &visit](Parameter<Scalar> parameter) {
    const QualifiedName inner = parameter.name;
    parameter.name = {part, &inner};
    visit(parameter);
  };
}

}  // namespace detail

/// Visits the parameters of a part of a larger model, the part's name put before theirs.
template <typename Model, typename Visitor>
void visit_part(std::string_view part, Model& model, Visitor&& visit) {
  model.visit_parameters(detail::visitor_of_part<typename Model::Scalar>(part, visit));
}

/// The number of trainable coefficients of a model.
template <HasParameters Model>
Index parameter_count(const Model& model) {
  Index count = 0;
  // A visit hands out what may be written, so it wants a model that is not const; this one reads.
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast)
  const_cast<Model&>(model).visit_parameters(
      [&](const auto& parameter) { count += parameter.size(); });
  return count;
}

/// Sets every gradient of a model to zero.
template <HasParameters Model>
void zero_gradients(Model& model) {
  model.visit_parameters([](auto parameter) { parameter.gradient.setZero(); });
}

}  // namespace loraplus
