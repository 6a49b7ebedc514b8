// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/factors.hpp>
#include <loraplus/adapter/lora_options.hpp>
#include <loraplus/adapter/output_blocks.hpp>
#include <loraplus/core/parameter.hpp>
#include <loraplus/core/random.hpp>
#include <loraplus/kernels/affine.hpp>
#include <loraplus/kernels/low_rank.hpp>
#include <span>
#include <utility>

namespace loraplus::inline v0_1 {

/// By which names and roles a layer shows the factors of its adapter.
struct FactorNames {
  /// The name of A.
  std::string_view a = "lora_A";
  /// The name of B.
  std::string_view b = "lora_B";
  /// The role of A.
  Role a_role = Role::lora_a;
  /// The role of B.
  Role b_role = Role::lora_b;
};

/// The trainable part of an adapter: s (B A x + b) with its gradients (Hu et al., "LoRA", equation
/// 3; b is lora_bias of PEFT and mostly absent). It knows no frozen weight.
///
/// B may be divided into blocks of outputs that have ranks of their own, see OutputBlocks. A
/// `scale` in the functions below multiplies s for this call.
template <RealScalar Scalar_>
class LowRank {
 public:
  using Scalar = Scalar_;

  /// One factor is drawn from the generator in storage order (A row by row, B column by column),
  /// the other is zero; see Initialization.
  /// @throws ArgumentError if an option is out of its range, or is lora_bias where not all groups
  /// of outputs are enabled
  template <RandomBits Generator>
  LowRank(Index out, Index in, const LoraOptions& options, Generator& generator)
      : LowRank(blocks_of(out, validate(options)), in, options, generator) {}

  /// The same for blocks of outputs; enabled_groups of the options are not asked.
  template <RandomBits Generator>
  LowRank(OutputBlocks blocks, Index in, const LoraOptions& options, Generator& generator)
      : LowRank(std::move(blocks), in, static_cast<Scalar>(lora_scaling(validate(options))),
                options.lora_bias) {
    initialize(options, generator);
  }

  /// The same for equal groups of outputs, as a convolution has them.
  /// @throws ArgumentError if an option is out of its range or is enabled_groups, or the groups do
  /// not divide the rank
  template <RandomBits Generator>
  static LowRank grouped(Index out, Index in, Index groups, const LoraOptions& options,
                         Generator& generator) {
    if (!options.enabled_groups.empty()) {
      raise<ArgumentError>("LoraConv: the groups are those of the geometry, not enabled_groups");
    }
    return {OutputBlocks::grouped(out, groups, validate(options).rank), in, options, generator};
  }

  /// From what was trained elsewhere; rank, scaling and bias are its own.
  /// @throws ShapeError if its shapes do not fit together, ArgumentError if the rank is 0 or the
  /// scaling is not finite
  explicit LowRank(const Factors<Scalar>& trained)
      : LowRank(OutputBlocks::whole(trained.out_features(), trained.rank()), trained) {}

  /// The same for blocks of outputs, their B one below the other: adapted outputs x block rank.
  LowRank(OutputBlocks blocks, const Factors<Scalar>& trained)
      : LowRank(std::move(blocks), trained.in_features(), static_cast<Scalar>(trained.scaling),
                trained.bias.size() != 0) {
    require_argument(rank() >= 1, "LowRank", "rank must be at least 1",
                     static_cast<double>(rank()));
    set_factors(trained);
  }

  /// The rows of A.
  Index rank() const { return a_.rows(); }
  Index in_features() const { return a_.cols(); }
  Index out_features() const { return blocks_.out_features(); }
  Scalar scaling() const { return scaling_; }
  /// Which ranks reach which outputs.
  const OutputBlocks& blocks() const { return blocks_; }
  /// Whether B has a bias.
  bool has_bias() const { return bias_.size() != 0; }

  /// The down-projection, r x in.
  const RowMajorMatrix<Scalar>& a() const { return a_; }
  /// The up-projection, out x r; of one block if there are several, its outputs x its ranks.
  const Matrix<Scalar>& b(std::size_t block = 0) const { return b_[block]; }
  /// The bias of B, out, or empty.
  const Vector<Scalar>& bias() const { return bias_; }
  /// The gradients, in these shapes; empty if they were released.
  const RowMajorMatrix<Scalar>& a_gradient() const { return a_gradient_; }
  /// The gradient of B, in the shape of b(block).
  const Matrix<Scalar>& b_gradient(std::size_t block = 0) const { return b_gradient_[block]; }

  /// A copy of what was learnt, the blocks of B one below the other.
  Factors<Scalar> factors() const {
    Factors<Scalar> copy{a_, Matrix<Scalar>(blocks_.adapted_outputs(), blocks_.block_rank()),
                         static_cast<double>(scaling_), bias_};
    for_each_block([&](std::size_t k, Index row, const OutputBlock& block, Index /*rank*/) {
      copy.b.middleRows(row, block.size) = b_[k];
    });
    return copy;
  }

  /// Replaces A, B and the bias of B, not the scaling. Nothing changes if a shape is wrong.
  /// @throws ShapeError
  void set_factors(const Factors<Scalar>& trained) {
    require_shape("set_factors", "A", trained.a, rank(), in_features());
    require_shape("set_factors", "B", trained.b, blocks_.adapted_outputs(), blocks_.block_rank());
    require_shape("set_factors", "the bias of B", trained.bias, bias_.size(), 1);
    a_ = trained.a;
    bias_ = trained.bias;
    for_each_block([&](std::size_t k, Index row, const OutputBlock& block, Index /*rank*/) {
      b_[k] = trained.b.middleRows(row, block.size);
    });
  }

  /// Replaces both factors, as by trained ones from elsewhere. Nothing changes if a shape is wrong.
  /// @param a r x in, @param b out x r
  /// @throws ShapeError
  template <typename DerivedA, typename DerivedB>
  void set_factors(const Eigen::MatrixBase<DerivedA>& a, const Eigen::MatrixBase<DerivedB>& b) {
    set_factors(Factors<Scalar>{a, b, 1, bias_});  // copies: a and b may be expressions of a(), b()
  }

  /// h = s A x. @param x in x n, @param h r x n
  void project(ConstMatrixView<Scalar> x, MatrixView<Scalar> h, Scalar scale = Scalar(1)) const {
    kernels::project<Scalar>(scale * scaling_, a_.transpose(), x, h);
  }

  /// y += B h. @param h r x n: s A x, @param y out x n
  void expand(ConstMatrixView<Scalar> h, MatrixView<Scalar> y) const {
    for_each_block([&](std::size_t k, Index /*row*/, const OutputBlock& block, Index rank) {
      auto outputs = y.middleRows(block.first, block.size);
      kernels::expand<Scalar>(b_[k], h.middleRows(rank, blocks_.block_rank()), outputs);
    });
  }

  /// y += s b. @param y out x n
  void add_bias(MatrixView<Scalar> y, Scalar scale = Scalar(1)) const {
    for (Index sample = 0; has_bias() && sample < y.cols(); ++sample) {
      y.col(sample) += scale * scaling_ * bias_;
    }
  }

  /// The same for tokens, whose x has a single 1 each, in the row of the token.
  /// @param tokens n of them, each a column of A
  void project(std::span<const Index> tokens, MatrixView<Scalar> h,
               Scalar scale = Scalar(1)) const {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      h.col(static_cast<Index>(i)) = scale * scaling_ * a_.col(tokens[i]);
    }
  }

  /// z = s B' dy, dB += dy h', dA += z x', db += s dy. @param dy out x n, @param h, z r x n,
  /// @param x in x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, ConstMatrixView<Scalar> h,
                MatrixView<Scalar> z, Scalar scale = Scalar(1)) {
    backward_outputs(dy, h, z, scale);
    auto a_gradient = a_gradient_.transpose();  // in x r, column-major
    kernels::accumulate<Scalar>(x, z, a_gradient);
  }

  /// The same for tokens. @param padding a token that A learns nothing of, or -1
  void backward(std::span<const Index> tokens, ConstMatrixView<Scalar> dy,
                ConstMatrixView<Scalar> h, MatrixView<Scalar> z, Scalar scale = Scalar(1),
                Index padding = -1) {
    backward_outputs(dy, h, z, scale);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] != padding) a_gradient_.col(tokens[i]) += z.col(static_cast<Index>(i));
    }
  }

  /// Frees the gradients of an adapter that is to compute only: half of its memory. Training makes
  /// them again.
  void release_gradients() {
    a_gradient_.resize(0, 0);
    bias_gradient_.resize(0);
    for (Matrix<Scalar>& gradient : b_gradient_) {
      gradient.resize(0, 0);
    }
  }

  /// Makes the gradients, zero, if they were released.
  void hold_gradients() {
    if (a_gradient_.rows() == rank()) return;
    a_gradient_.setZero(rank(), in_features());
    bias_gradient_.setZero(bias_.size());
    for (std::size_t k = 0; k < b_.size(); ++k) {
      b_gradient_[k].setZero(b_[k].rows(), b_[k].cols());
    }
  }

  /// dx += A' z. @param z r x n: s B' dy, @param dx in x n
  void expand_input(ConstMatrixView<Scalar> z, MatrixView<Scalar> dx) const {
    kernels::expand<Scalar>(a_.transpose(), z, dx);
  }

  /// W += s B A: what `expand` does for h = s A. @param w out x in
  void add_to(MatrixView<Scalar> w, Scalar scale = Scalar(1)) const {
    const Matrix<Scalar> h = scale * scaling_ * a_;  // r x in
    expand(h, w);
  }

  /// Shows A, B and the bias of B under names and roles of the layer; with several blocks those of
  /// each, as pairs of an A and a B, lora_A.0, lora_B.0, ...
  template <typename Visitor>
  void visit_parameters(Visitor&& visit, const FactorNames& names = {}) {
    hold_gradients();
    for_each_block([&](std::size_t k, Index /*row*/, const OutputBlock& /*block*/, Index rank) {
      const Index r = blocks_.block_rank();
      const std::string number = b_.size() == 1 ? std::string() : std::to_string(k);
      const QualifiedName inner{number};
      const auto show = [&](Parameter<Scalar> parameter) {
        if (b_.size() > 1) parameter.name.inner = &inner;
        visit(parameter);
      };
      const Index first = rank * a_.cols();
      show(Parameter<Scalar>(names.a, names.a_role, RowsOfA(a_.data() + first, r, a_.cols()),
                             RowsOfA(a_gradient_.data() + first, r, a_.cols()), scaling_));
      show(Parameter<Scalar>(names.b, names.b_role, b_[k], b_gradient_[k], scaling_));
    });
    if (!has_bias()) return;
    const QualifiedName inner{"bias"};
    Parameter<Scalar> parameter(names.b, Role::bias, bias_, bias_gradient_, scaling_);
    parameter.name.inner = &inner;
    visit(parameter);
  }

  /// Calls use(k, row, block, rank) for block k: its first row in the B of factors(), its outputs,
  /// its first rank.
  template <typename Use>
  void for_each_block(Use&& use) const {
    Index row = 0, rank = 0;
    std::size_t k = 0;
    for (const OutputBlock& block : blocks_.blocks()) {
      use(k++, row, block, rank);
      row += block.size;
      rank += blocks_.block_rank();
    }
  }

 private:
  using RowsOfA = Eigen::Map<RowMajorMatrix<Scalar>>;

  LowRank(OutputBlocks blocks, Index in, Scalar scaling, bool has_bias)
      : blocks_(std::move(blocks)),
        scaling_(scaling),
        a_(RowMajorMatrix<Scalar>::Zero(blocks_.rank(), in)),
        bias_(Vector<Scalar>::Zero(has_bias ? blocks_.out_features() : 0)) {
    require_argument(std::isfinite(scaling), "LowRank", "the scaling must be finite",
                     static_cast<double>(scaling));
    if (has_bias && !blocks_.reach_all()) {
      raise<ArgumentError>("LowRank: lora_bias reaches all outputs, not the enabled groups alone");
    }
    for (const OutputBlock& block : blocks_.blocks()) {
      b_.push_back(Matrix<Scalar>::Zero(block.size, blocks_.block_rank()));
    }
    b_gradient_.resize(b_.size());
    hold_gradients();
  }

  static OutputBlocks blocks_of(Index out, const LoraOptions& options) {
    return options.enabled_groups.empty()
               ? OutputBlocks::whole(out, options.rank)
               : OutputBlocks::enabled(out, options.enabled_groups, options.rank);
  }

  /// z = s B' dy, dB += dy h', db += s dy.
  void backward_outputs(ConstMatrixView<Scalar> dy, ConstMatrixView<Scalar> h, MatrixView<Scalar> z,
                        Scalar scale) {
    hold_gradients();
    for_each_block([&](std::size_t k, Index /*row*/, const OutputBlock& block, Index rank) {
      const Index r = blocks_.block_rank();
      auto z_part = z.middleRows(rank, r);
      kernels::project_and_accumulate<Scalar>(scale * scaling_, b_[k],
                                              dy.middleRows(block.first, block.size),
                                              h.middleRows(rank, r), z_part, b_gradient_[k]);
    });
    for (Index sample = 0; has_bias() && sample < dy.cols(); ++sample) {
      bias_gradient_ += scale * scaling_ * dy.col(sample);
    }
  }

  template <RandomBits Generator>
  void initialize(const LoraOptions& options, Generator& generator) {
    const double scale = options.init_scale;
    const double a_bound = scale / std::sqrt(static_cast<double>(in_features()));
    const double b_bound = scale / std::sqrt(static_cast<double>(blocks_.block_rank()));
    switch (options.initialization) {
      case Initialization::a_uniform:
        return loraplus::fill_uniform(a_, generator, -a_bound, a_bound);
      case Initialization::a_gaussian:
        return loraplus::fill_normal(a_, generator, scale / static_cast<double>(options.rank));
      case Initialization::both_uniform:
        loraplus::fill_uniform(a_, generator, -a_bound, a_bound);
        loraplus::fill_uniform(bias_, generator, -b_bound, b_bound);
        [[fallthrough]];
      case Initialization::b_uniform:
        for (Matrix<Scalar>& b : b_) {
          loraplus::fill_uniform(b, generator, -b_bound, b_bound);
        }
    }
  }

  OutputBlocks blocks_;
  Scalar scaling_;                          // s
  RowMajorMatrix<Scalar> a_;                // r x in
  std::vector<Matrix<Scalar>> b_;           // a block each: outputs x ranks of the block
  Vector<Scalar> bias_;                     // out, or empty
  RowMajorMatrix<Scalar> a_gradient_;       // r x in
  std::vector<Matrix<Scalar>> b_gradient_;  // as b_
  Vector<Scalar> bias_gradient_;            // as bias_
};

}  // namespace loraplus
