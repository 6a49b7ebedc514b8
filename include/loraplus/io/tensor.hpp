// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <loraplus/core/matrix.hpp>
#include <loraplus/io/dtype.hpp>
#include <loraplus/io/file_error.hpp>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace loraplus::inline v0_1 {

static_assert(std::endian::native == std::endian::little, "loraplus::io: files are little-endian");

/// A matrix as files have it, of whatever elements.
template <typename Element>
using TensorMatrix = Eigen::Matrix<Element, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

namespace detail {

/// to = from. Where the one is row-major and the other column-major, tile by tile: what of the one
/// lies far apart is then in the first cache when it is come back to.
template <typename From, typename To>
void copy_tiles(const From& from, To&& to) {
  if constexpr (static_cast<bool>(From::IsRowMajor) ==
                static_cast<bool>(std::remove_cvref_t<To>::IsRowMajor)) {
    to = from;
  } else {
    constexpr Index side = 32;
    for (Index row = 0; row < to.rows(); row += side) {
      const Index rows = std::min(side, to.rows() - row);
      for (Index col = 0; col < to.cols(); col += side) {
        const Index cols = std::min(side, to.cols() - col);
        to.block(row, col, rows, cols) = from.block(row, col, rows, cols);
      }
    }
  }
}

}  // namespace detail

/// A named tensor whose elements lie elsewhere: in a file that is read, or in memory that is to be
/// written. Row-major, as files are. A tensor of one dimension is a column here; one of none, of
/// one element, is 1 x 1.
struct TensorView {
  /// Unique in its file.
  std::string name;
  /// The type of its elements.
  Dtype dtype = Dtype::f32;
  /// Its dimensions, the slowest first.
  std::vector<Index> shape;
  /// The elements, row-major.
  std::span<const std::byte> bytes;
  std::string source;  ///< the file, for errors

  /// The first dimension, or 1.
  Index rows() const { return shape.empty() ? 1 : shape[0]; }
  /// The second dimension, or 1.
  Index cols() const { return shape.size() < 2 ? 1 : shape[1]; }

  /// "F32, 3 x 4"
  std::string description() const {
    std::string text(to_string(dtype));
    for (std::size_t i = 0; i < shape.size(); ++i) {
      text += (i == 0 ? ", " : " x ") + std::to_string(shape[i]);
    }
    return text;
  }

  /// The same elements as a matrix, of as many rows as the first dimension has: a convolution's
  /// weights are out x patch.
  TensorView flattened() const {
    TensorView flat = *this;
    Index cols = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) {
      cols *= shape[i];
    }
    flat.shape = {rows(), cols};
    return flat;
  }

  /// The elements in place, rows x cols. Not truth values: a file can have others than 0 and 1.
  /// @throws FileError if they are of another type, or do not lie in memory as that type must, or
  /// the tensor has more than two dimensions
  template <typename Element>
  requires(!std::is_same_v<Element, bool>) Eigen::Map<const TensorMatrix<Element>> in_place()
  const {
    require_matrix();
    if (dtype != dtype_of<Element>) {
      fail("cannot be used in place as " + std::string(to_string(dtype_of<Element>)));
    }
    if (!bytes.empty() && reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(Element) != 0) {
      fail("cannot be used in place: the file does not align it");
    }
    return {reinterpret_cast<const Element*>(bytes.data()), rows(), cols()};
  }

  /// The elements converted, rows x cols; each as a static_cast does it, a truth value to 0 or 1.
  /// @throws FileError if there is no such conversion, or the tensor has more than two dimensions
  template <RealScalar Scalar>
  Matrix<Scalar> to_matrix() const {
    require_matrix();
    Matrix<Scalar> matrix(rows(), cols());
    const bool known = visit_dtype(dtype, [&]<typename Element>(Element /*kind*/) {
      if (bytes.empty()) return;  // however many rows there are of nothing
      const auto converted = [this](Index row, Index col) {
        const auto at = static_cast<std::size_t>(row * cols() + col) * sizeof(Element);
        return static_cast<Scalar>(read<Element>(bytes.data() + at));
      };
      detail::copy_tiles(TensorMatrix<Scalar>::NullaryExpr(rows(), cols(), converted), matrix);
    });
    if (!known) fail("has a type that cannot be converted");
    return matrix;
  }

  /// The same as a column. @throws FileError also if the tensor has two dimensions
  template <RealScalar Scalar>
  Vector<Scalar> to_vector() const {
    if (shape.size() > 1) fail("must have one dimension");
    return to_matrix<Scalar>();
  }

  /// @throws FileError that names file and tensor, and says what
  [[noreturn]] void fail(const std::string& what) const {
    throw FileError(source + ": '" + name + "' (" + description() + ") " + what);
  }

 private:
  template <typename Element>
  static Element read(const std::byte* from) {
    if constexpr (std::is_same_v<Element, bool>) {
      return *from != std::byte{0};  // no other byte than 0 and 1 is a bool
    } else {
      Element element;
      std::memcpy(&element, from, sizeof(Element));
      return element;
    }
  }
  void require_matrix() const {
    if (shape.size() > 2) fail("must have at most two dimensions");
  }
};

}  // namespace loraplus
