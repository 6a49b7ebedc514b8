// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <loraplus/core/error.hpp>
#include <loraplus/frozen/row_norms.hpp>
#include <utility>
#include <vector>

namespace loraplus::inline v0_1 {

/// Frozen weights in a row, each with inputs and outputs of its own: a block-diagonal matrix, as a
/// convolution in groups has it.
template <FrozenWeight Part>
class GroupedWeight {
 public:
  using Scalar = typename Part::Scalar;

  /// @param parts the blocks from the first outputs to the last @throws ArgumentError if empty
  explicit GroupedWeight(std::vector<Part> parts) : parts_(std::move(parts)) {
    if (parts_.empty()) raise<ArgumentError>("GroupedWeight: no parts");
    if (std::all_of(parts_.begin(), parts_.end(), has_no_bias)) return;
    bias_.resize(out_features());
    Index row = 0;
    for (const Part& part : parts_) {
      bias_.segment(row, part.out_features()) = loraplus::bias_of(part);
      row += part.out_features();
    }
  }

  Index in_features() const {
    Index sum = 0;
    for (const Part& part : parts_) {
      sum += part.in_features();
    }
    return sum;
  }
  Index out_features() const {
    Index sum = 0;
    for (const Part& part : parts_) {
      sum += part.out_features();
    }
    return sum;
  }
  /// The weights of the groups, in their order.
  const std::vector<Part>& parts() const { return parts_; }

  /// y = W x + b. @param x in x n, @param y out x n
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y) const {
    for_each([&](const Part& part, Index row, Index col) {
      auto outputs = y.middleRows(row, part.out_features());
      part.forward(x.middleRows(col, part.in_features()), outputs);
    });
  }

  /// dx = W' dy. @param dy out x n, @param dx in x n
  void backward(ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx) const {
    for_each([&](const Part& part, Index row, Index col) {
      auto inputs = dx.middleRows(col, part.in_features());
      part.backward(dy.middleRows(row, part.out_features()), inputs);
    });
  }

  /// w = W, with its zeros. @param w out x in @throws ShapeError
  void copy_to(MatrixView<Scalar> w) const requires DenseWeight<Part> {
    require_shape("GroupedWeight::copy_to", "w", w, out_features(), in_features());
    w.setZero();
    for_each([&](const Part& part, Index row, Index col) {
      auto block = w.block(row, col, part.out_features(), part.in_features());
      part.copy_to(block);
    });
  }
  ConstVectorView<Scalar> bias() const { return {bias_.data(), bias_.size()}; }

 private:
  static bool has_no_bias(const Part& part) {
    if constexpr (requires { part.bias(); }) return part.bias().size() == 0;
    return false;
  }

  template <typename Use>
  void for_each(Use&& use) const {
    Index row = 0, col = 0;
    for (const Part& part : parts_) {
      use(part, row, col);
      row += part.out_features();
      col += part.in_features();
    }
  }

  std::vector<Part> parts_;
  Vector<Scalar> bias_;  // out, or empty
};

}  // namespace loraplus
