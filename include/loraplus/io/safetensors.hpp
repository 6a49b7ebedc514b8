// SPDX-License-Identifier: MIT
#pragma once

#include <limits>
#include <loraplus/core/error.hpp>
#include <loraplus/io/atomic_file.hpp>
#include <loraplus/io/mapped_file.hpp>
#include <loraplus/io/safetensors_header.hpp>
#include <loraplus/io/tensor.hpp>
#include <memory>
#include <set>

namespace loraplus::inline v0_1 {

/// A safetensors file, mapped: opening it reads the header, using a tensor reads that tensor.
/// Copies share the mapping; views of tensors are valid as long as one of them lives.
class Safetensors {
 public:
  /// @throws FileError if the file cannot be read, SafetensorsError if it is not as it must be
  explicit Safetensors(const std::filesystem::path& file)
      : name_(file.string()),
        file_(std::make_shared<const MappedFile>(file)),
        header_(read_safetensors_header(file_->bytes(), name_)) {}

  /// The path that it was opened by.
  const std::string& name() const { return name_; }
  /// "__metadata__", texts by their keys.
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  /// The number of tensors.
  std::size_t size() const { return header_.tensors.size(); }

  /// By their places in the file.
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const TensorInfo& tensor : header_.tensors) {
      found.push_back(tensor.name);
    }
    return found;
  }

  /// Whether there is a tensor of this name.
  bool contains(const std::string& name) const { return header_.find(name) != nullptr; }

  /// @throws FileError if there is none of this name, or it has a dimension of 2^63 or more, as a
  /// tensor without elements can have
  TensorView at(const std::string& name) const {
    const TensorInfo* info = header_.find(name);
    if (info == nullptr) throw FileError(name_ + " has no tensor '" + name + "'");
    TensorView view{name, info->dtype, {}, {}, name_};
    for (const std::uint64_t size : info->shape) {
      if (size > static_cast<std::uint64_t>(std::numeric_limits<Index>::max())) {
        throw FileError(name_ + ": '" + name + "' has a dimension of " + std::to_string(size) +
                        ", which no matrix has");
      }
      view.shape.push_back(static_cast<Index>(size));
    }
    view.bytes = file_->bytes().subspan(static_cast<std::size_t>(header_.data + info->begin),
                                        static_cast<std::size_t>(info->end - info->begin));
    return view;
  }

 private:
  std::string name_;
  std::shared_ptr<const MappedFile> file_;
  SafetensorsHeader header_;
};

/// The tensors of a file to be written.
class TensorList {
 public:
  /// Copies a matrix, or a block or map of one; a vector has one dimension. An expression is
  /// evaluated first: block by block a product would be computed again for each.
  template <typename Derived>
  void add(std::string name, const Eigen::MatrixBase<Derived>& matrix) {
    if constexpr (!static_cast<bool>(Derived::Flags & Eigen::DirectAccessBit)) {
      return add(std::move(name), matrix.eval());
    } else {
      copy(std::move(name), matrix);
    }
  }

  /// The same in another shape, of as many elements in row-major order.
  template <typename Derived>
  void add(std::string name, const Eigen::MatrixBase<Derived>& matrix, std::vector<Index> shape) {
    add(std::move(name), matrix);
    views_.back().shape = std::move(shape);
  }

  /// A tensor that is only seen, and must live until it is written: its bytes as a file has them.
  void add(TensorView view) { views_.push_back(std::move(view)); }

  /// The tensors, in the order in which they were added.
  const std::vector<TensorView>& views() const { return views_; }

 private:
  template <typename Derived>
  void copy(std::string name, const Eigen::MatrixBase<Derived>& matrix) {
    using Element = typename Derived::Scalar;
    TensorView view{std::move(name), dtype_of<Element>, {matrix.rows()}, {}, {}};
    if constexpr (Derived::IsVectorAtCompileTime) {
      view.shape = {matrix.size()};
    } else {
      view.shape.push_back(matrix.cols());
    }
    const std::size_t size = static_cast<std::size_t>(matrix.size()) * sizeof(Element);
    copies_.push_back(std::make_unique_for_overwrite<std::byte[]>(size));
    auto* data = reinterpret_cast<Element*>(copies_.back().get());
    detail::copy_tiles(matrix.derived(),
                       Eigen::Map<TensorMatrix<Element>>(data, matrix.rows(), matrix.cols()));
    view.bytes = {copies_.back().get(), size};
    views_.push_back(std::move(view));
  }

  std::vector<TensorView> views_;
  std::vector<std::unique_ptr<std::byte[]>> copies_;
};

namespace detail {

/// The first 8 bytes and the header, padded to a multiple of 8.
/// @param tensors sorted as they follow each other
inline std::string safetensors_head(const std::vector<const TensorView*>& tensors,
                                    const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  if (!metadata.empty()) text += "\"__metadata__\":" + nlohmann::json(metadata).dump();
  std::uint64_t at = 0;
  for (const TensorView* tensor : tensors) {
    const std::uint64_t end = at + tensor->bytes.size();
    const nlohmann::ordered_json info = {
        {"dtype", to_string(tensor->dtype)}, {"shape", tensor->shape}, {"data_offsets", {at, end}}};
    if (text.size() > 1) text += ',';
    text += nlohmann::json(tensor->name).dump() + ':' + info.dump();
    at = end;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string head(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) {
    head[i] = static_cast<char>((text.size() >> (8 * i)) & 0xFF);
  }
  return head + text;
}

/// @throws ArgumentError
inline void require_writable(const std::vector<const TensorView*>& tensors) {
  std::set<std::string> names;
  for (const TensorView* tensor : tensors) {
    const auto refuse = [&](const std::string& what) {
      throw ArgumentError("write_safetensors: '" + tensor->name + "' " + what);
    };
    if (tensor->name == "__metadata__") refuse("is no name for a tensor");
    if (!is_utf8(tensor->name)) refuse("is not UTF-8");
    if (!names.insert(tensor->name).second) refuse("is there twice");
    if (tensor->shape.size() > most_dimensions) refuse("has more than 64 dimensions");
    for (const Index side : tensor->shape) {
      if (side < 0) refuse("has a negative dimension");
    }
    TensorInfo info{tensor->name, tensor->dtype, {}, 0, 0};
    info.shape.assign(tensor->shape.begin(), tensor->shape.end());
    if (byte_count(info, "write_safetensors: ") != tensor->bytes.size()) {
      refuse("does not have the bytes that its shape needs");
    }
  }
}

}  // namespace detail

/// Writes a file, byte for byte as the reference implementation does: larger types first, then by
/// name. The file is written as a whole or not at all (AtomicFile).
/// @throws ArgumentError for a name that no file can hold, or is there twice; FileError
inline void write_safetensors(const std::filesystem::path& file, const TensorList& tensors,
                              const std::map<std::string, std::string>& metadata = {}) {
  std::vector<const TensorView*> sorted;
  for (const TensorView& tensor : tensors.views()) {
    sorted.push_back(&tensor);
  }
  std::sort(sorted.begin(), sorted.end(), [](const TensorView* a, const TensorView* b) {
    return a->dtype != b->dtype ? a->dtype > b->dtype : a->name < b->name;
  });
  detail::require_writable(sorted);
  for (const auto& [key, text] : metadata) {
    if (!detail::is_utf8(key) || !detail::is_utf8(text)) {
      throw ArgumentError("write_safetensors: the metadata of '" + key + "' is not UTF-8");
    }
  }
  const std::string head = detail::safetensors_head(sorted, metadata);
  if (head.size() - 8 > detail::largest_header) {
    throw ArgumentError("write_safetensors: the header would have " +
                        std::to_string(head.size() - 8) + " bytes, at most " +
                        std::to_string(detail::largest_header) + " may be");
  }
  AtomicFile out(file);
  out.write(head);
  for (const TensorView* tensor : sorted) {
    out.write(tensor->bytes);
  }
  out.commit();
}

}  // namespace loraplus
