// SPDX-License-Identifier: MIT
//
// A convolution as a matrix product: the inputs that each output position sees, gathered into
// columns.
#pragma once

#include <algorithm>
#include <loraplus/core/error.hpp>
#include <vector>

namespace loraplus::inline v0_1 {

/// What stands around an image, by PyTorch's names.
enum class PaddingMode {
  zeros,      ///< nothing
  reflect,    ///< the image, mirrored at its outermost pixels, which do not come twice
  replicate,  ///< its outermost pixels
  circular,   ///< the image again
};

/// One axis of a convolution. A one-dimensional convolution has a second axis of size 1.
struct ConvAxis {
  Index size = 1;    ///< of the input
  Index kernel = 1;  ///< all at least 1 but the padding
  /// From one position to the next.
  Index stride = 1;
  Index padding = 0;  ///< on either side
  /// From one input that a position sees to the next.
  Index dilation = 1;

  /// Output positions. May be below 1: the kernel is larger than what it slides over.
  Index positions() const {
    const Index room = size + 2 * padding - dilation * (kernel - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
  }

  /// Whether all is the same.
  bool operator==(const ConvAxis&) const = default;
};

/// The geometry of a convolution of images, a sample a column: channels x height x width, the width
/// fastest, as PyTorch's tensors are. Outputs are so too.
struct ConvGeometry {
  Index dimensions =
      2;  ///< 1 for PyTorch's Conv1d, by which its files differ; the height is 1 then
  /// Of the input.
  Index channels = 1;
  /// From top to bottom.
  ConvAxis height = {};
  /// From left to right; the fastest in memory.
  ConvAxis width = {};
  Index groups = 1;  ///< of channels and outputs, each with weights of its own
  /// What stands around the image.
  PaddingMode padding_mode = PaddingMode::zeros;

  /// The inputs of a sample: channels x height x width.
  Index inputs() const { return channels * height.size * width.size; }
  /// Where the kernel is applied: output height x output width.
  Index positions() const { return height.positions() * width.positions(); }
  /// Inputs that a position sees: channels x kernel height x kernel width.
  Index patch() const { return channels * height.kernel * width.kernel; }

  /// Whether all is the same.
  bool operator==(const ConvGeometry&) const = default;
};

namespace kernels {

/// Gathers patches and adds them back. Which input a position sees is worked out once.
class Patches {
 public:
  /// @throws ArgumentError that names what is out of its range
  explicit Patches(const ConvGeometry& geometry)
      : geometry_(geometry),
        rows_(table(geometry.height, geometry.padding_mode, "height")),
        cols_(table(geometry.width, geometry.padding_mode, "width")) {
    require_argument(geometry.channels >= 1, "ConvGeometry", "channels must be at least 1",
                     static_cast<double>(geometry.channels));
    require_argument(geometry.dimensions == 2 || (geometry.dimensions == 1 && is_flat(geometry)),
                     "ConvGeometry", "dimensions must be 2, or 1 with a height of 1",
                     static_cast<double>(geometry.dimensions));
    require_argument(geometry.groups >= 1 && geometry.channels % geometry.groups == 0,
                     "ConvGeometry", "groups must divide the channels",
                     static_cast<double>(geometry.groups));
  }

  /// What it was made for.
  const ConvGeometry& geometry() const { return geometry_; }

  /// @param x inputs x n, @param patches patch x (positions n): the positions of a sample side by
  /// side, a patch in the order of PyTorch's weights
  template <typename Scalar>
  void gather(ConstMatrixView<Scalar> x, MatrixView<Scalar> patches) const {
    for_each(x.cols(), [&](Index sample, Index column) {
      const Scalar* from = x.data() + sample * x.outerStride();
      Scalar* to = patches.data() + column * patches.outerStride();
      return [=](Index input) mutable { *to++ = input < 0 ? Scalar(0) : from[input]; };
    });
  }

  /// x += what gather took from it. @param patches patch x (positions n), @param x inputs x n
  template <typename Scalar>
  void scatter(ConstMatrixView<Scalar> patches, MatrixView<Scalar> x) const {
    for_each(x.cols(), [&](Index sample, Index column) {
      Scalar* to = x.data() + sample * x.outerStride();
      const Scalar* from = patches.data() + column * patches.outerStride();
      return [=](Index input) mutable {
        if (input >= 0) to[input] += *from;
        ++from;
      };
    });
  }

 private:
  static bool is_flat(const ConvGeometry& geometry) {
    return geometry.height.size == 1 && geometry.height.kernel == 1 && geometry.height.padding == 0;
  }

  /// For each position and each place in the kernel the input seen there, or -1.
  static std::vector<Index> table(const ConvAxis& axis, PaddingMode mode, const char* name) {
    const auto require = [&](bool valid, const char* what, Index value) {
      require_argument(valid, std::string("ConvGeometry::") + name, what,
                       static_cast<double>(value));
    };
    require(axis.size >= 1, "size must be at least 1", axis.size);
    require(axis.kernel >= 1, "kernel must be at least 1", axis.kernel);
    require(axis.stride >= 1, "stride must be at least 1", axis.stride);
    require(axis.dilation >= 1, "dilation must be at least 1", axis.dilation);
    require(axis.padding >= 0, "padding must be at least 0", axis.padding);
    require(axis.positions() >= 1, "the kernel must fit into the padded size", axis.kernel);
    const bool wraps = mode == PaddingMode::reflect || mode == PaddingMode::circular;
    const Index most = mode == PaddingMode::reflect ? axis.size - 1 : axis.size;
    require(!wraps || axis.padding <= most, "padding is more than the image can give",
            axis.padding);
    std::vector<Index> inputs;
    for (Index position = 0; position < axis.positions(); ++position) {
      for (Index k = 0; k < axis.kernel; ++k) {
        inputs.push_back(
            input_at(position * axis.stride + k * axis.dilation - axis.padding, axis.size, mode));
      }
    }
    return inputs;
  }

  static Index input_at(Index at, Index size, PaddingMode mode) {
    if (at >= 0 && at < size) return at;
    switch (mode) {
      case PaddingMode::zeros:
        return -1;
      case PaddingMode::reflect:
        return at < 0 ? -at : 2 * (size - 1) - at;
      case PaddingMode::replicate:
        return std::clamp<Index>(at, 0, size - 1);
      case PaddingMode::circular:
        return (at + size) % size;
    }
    return -1;
  }

  /// `begin(sample, column)` gives a function that is called for each element of the patch of that
  /// column, in order, with the input it is, or -1.
  template <typename Begin>
  void for_each(Index samples, Begin&& begin) const {
    Index column = 0;
    for (Index sample = 0; sample < samples; ++sample) {
      for (Index row = 0; row < geometry_.height.positions(); ++row) {
        for (Index col = 0; col < geometry_.width.positions(); ++col) {
          for_each_input(row, col, begin(sample, column++));
        }
      }
    }
  }

  /// The inputs of the patch at a position.
  template <typename Use>
  void for_each_input(Index row, Index col, Use use) const {
    const Index height = geometry_.height.kernel, width = geometry_.width.kernel;
    const Index image = geometry_.height.size * geometry_.width.size;
    const Index* const rows = rows_.data() + row * height;
    const Index* const cols = cols_.data() + col * width;
    for (Index channel = 0; channel < geometry_.channels; ++channel) {
      for (Index i = 0; i < height; ++i) {
        const Index first = channel * image + rows[i] * geometry_.width.size;
        for (Index j = 0; j < width; ++j) {
          use(rows[i] < 0 || cols[j] < 0 ? -1 : first + cols[j]);
        }
      }
    }
  }

  ConvGeometry geometry_;
  std::vector<Index> rows_;  // positions x kernel of the height
  std::vector<Index> cols_;  // positions x kernel of the width
};

}  // namespace kernels

}  // namespace loraplus
