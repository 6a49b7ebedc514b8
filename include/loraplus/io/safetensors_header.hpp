// SPDX-License-Identifier: MIT
//
// The header of a safetensors file: which tensors it has, of which type and shape, and where. A
// file is
//
//     N, 8 bytes, little-endian | header, N bytes of JSON | the elements of all tensors
//
// and the checks are those of the reference implementation, in its order. Besides, three things are
// refused that it lets pass: tensors of one name, tensors of more than 64 dimensions, and those
// that are written in other ways than files are, as lists or with {"F32":null} for a type.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <loraplus/io/dtype.hpp>
#include <loraplus/io/file_error.hpp>
#include <loraplus/io/header_text.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace loraplus::inline v0_1 {

/// What is wrong with a safetensors file, by the names of the reference implementation.
enum class SafetensorsFault {
  header_too_small,                ///< fewer than 8 bytes
  header_too_large,                ///< N above 100,000,000
  invalid_header_length,           ///< the file ends within the header
  invalid_header,                  ///< the header is not UTF-8
  invalid_header_deserialization,  ///< no JSON, or not that of a header
  duplicate_name,                  ///< two tensors have one name
  invalid_offset,                  ///< a hole, an overlap, or an end before its beginning
  validation_overflow,             ///< a shape of 2^64 bits or more
  misaligned_slice,                ///< a tensor that ends within a byte
  tensor_invalid_info,             ///< shape and type do not have the bytes that the offsets say
  metadata_incomplete_buffer,      ///< the file has fewer or more bytes than its tensors
};

/// A file that is not as the format wants it.
class SafetensorsError : public FileError {
 public:
  /// @param fault the check that failed, @param what the message, with file and tensor
  SafetensorsError(SafetensorsFault fault, const std::string& what)
      : FileError(what), fault_(fault) {}

  /// The check that failed.
  SafetensorsFault fault() const { return fault_; }

 private:
  SafetensorsFault fault_;
};

/// A tensor as the header tells it.
struct TensorInfo {
  /// Unique in the file.
  std::string name;
  /// The type of its elements.
  Dtype dtype = Dtype::f32;
  /// Its dimensions, the slowest first.
  std::vector<std::uint64_t> shape;
  std::uint64_t begin = 0;  ///< of its bytes, from the end of the header
  /// Where its bytes end, from there.
  std::uint64_t end = 0;
};

/// What stands before the tensors of a file.
struct SafetensorsHeader {
  /// "__metadata__", texts by their keys.
  std::map<std::string, std::string> metadata;
  std::deque<TensorInfo> tensors;    ///< by their place in the file; not in one piece of memory
  std::vector<std::size_t> by_name;  ///< their indices, by their names
  std::uint64_t data = 0;            ///< where the first tensor begins in the file

  /// The tensor of this name, or null.
  const TensorInfo* find(const std::string& name) const {
    const auto found = std::lower_bound(
        by_name.begin(), by_name.end(), name,
        [&](std::size_t i, const std::string& wanted) { return tensors[i].name < wanted; });
    if (found == by_name.end() || tensors[*found].name != name) return nullptr;
    return &tensors[*found];
  }
};

namespace detail {

inline constexpr std::uint64_t largest_header = 100'000'000;
inline constexpr std::size_t most_dimensions = 64;  // NumPy's and PyTorch's bound

/// Builds a header of the events of a JSON parser, and of the texts that it did not see; says what
/// is wrong at the first event that does not fit. Unknown fields of a tensor are passed over.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(const HeaderText& text, SafetensorsHeader& header) : text_(text), header_(header) {}

  const std::string& problem() const { return problem_; }

  bool null() override {
    if (depth_ == 1 && place_ == Place::metadata) return true;
    return value("null");
  }
  bool boolean(bool /*value*/) override { return value("a truth value"); }
  bool number_integer(std::int64_t /*value*/) override { return value("a negative number"); }
  bool number_unsigned(std::uint64_t number) override {
    if (depth_ == 3 && place_ == Place::shape) {
      tensor_.shape.push_back(number);
      return tensor_.shape.size() <= most_dimensions || refuse("has more than 64 dimensions");
    }
    if (depth_ == 3 && place_ == Place::offsets) {
      offsets_.push_back(number);
      return offsets_.size() <= 2 || refuse("must have two numbers");
    }
    return value("a number");
  }
  bool number_float(double /*value*/, const std::string& text) override { return value(text); }
  bool string(std::string& /*nothing*/) override {
    const std::string& text = text_.text();
    if (depth_ == 2 && place_ == Place::metadata) {
      header_.metadata[field_] = text;
      return true;
    }
    if (depth_ == 2 && place_ == Place::dtype) {
      const auto dtype = find_dtype(text);
      if (!dtype) return refuse("has the unknown type " + in_quotes(text));
      tensor_.dtype = *dtype;
      return true;
    }
    return value("a string");
  }
  bool binary(nlohmann::json::binary_t& /*value*/) override { return value("binary data"); }

  bool start_object(std::size_t /*elements*/) override {
    if (++depth_ > deepest) return refuse("is nested too deeply");
    if (depth_ == 1 || (depth_ == 2 && place_ != Place::skipped)) return true;
    return place_ == Place::skipped || value("an object");
  }
  bool key(std::string& /*nothing*/) override {
    const std::string& name = text_.text();
    if (depth_ == 1) {
      place_ = name == "__metadata__" ? Place::metadata : Place::tensor;
      tensor_ = {name, Dtype::f32, {}, 0, 0};
      offsets_.clear();
      fields_ = {};
      if (place_ == Place::metadata && std::exchange(has_metadata_, true)) {
        return refuse("is there twice");
      }
    } else if (depth_ == 2) {
      field_ = name;
      if (place_ == Place::metadata) return true;
      place_ = place_of(field_);
      if (place_ != Place::skipped && std::exchange(field(place_), true)) {
        return refuse("has two fields " + in_quotes(field_));
      }
    }
    return true;
  }
  bool end_object() override {
    --depth_;
    if (depth_ == 1 && place_ != Place::metadata) {
      for (const char* name : {"dtype", "shape", "data_offsets"}) {
        if (!field(place_of(name))) return refuse(std::string("has no field '") + name + "'");
      }
      header_.tensors.push_back(std::move(tensor_));
    }
    return true;
  }
  bool start_array(std::size_t /*elements*/) override {
    if (++depth_ > deepest) return refuse("is nested too deeply");
    if (depth_ == 3 && (place_ == Place::shape || place_ == Place::offsets)) return true;
    return place_ == Place::skipped || value("a list");
  }
  bool end_array() override {
    --depth_;
    if (depth_ == 2 && place_ == Place::offsets) {
      if (offsets_.size() != 2) return refuse("must have two data_offsets");
      tensor_.begin = offsets_[0];
      tensor_.end = offsets_[1];
    }
    return true;
  }
  bool parse_error(std::size_t /*position*/, const std::string& /*token*/,
                   const nlohmann::json::exception& error) override {
    const std::string what = error.what();  // with a place in what it saw, up to a colon
    const std::size_t colon = what.find(": ");
    problem_ = "before byte " + std::to_string(text_.position()) + ", " +
               (colon == std::string::npos ? what : what.substr(colon + 2));
    return false;
  }

 private:
  enum class Place { dtype, shape, offsets, none, metadata, tensor, skipped };

  static constexpr int deepest = 127;

  static Place place_of(const std::string& field) {
    if (field == "dtype") return Place::dtype;
    if (field == "shape") return Place::shape;
    if (field == "data_offsets") return Place::offsets;
    return Place::skipped;
  }

  /// A value where it stands. @return whether it may stand there
  bool value(const std::string& found) {
    if (depth_ >= 2 && place_ == Place::skipped) return true;
    if (place_ == Place::none) return refuse("must be an object, found " + found);
    return refuse((depth_ >= 2 ? in_quotes(field_) + " must not be " : "must not be ") + found);
  }
  bool refuse(const std::string& what) {
    problem_ = place_ == Place::none ? "it " + what : in_quotes(tensor_.name) + ' ' + what;
    return false;
  }
  /// Whether the tensor has its type, its shape, or its offsets.
  bool& field(Place place) { return fields_[static_cast<std::size_t>(place)]; }

  const HeaderText& text_;
  SafetensorsHeader& header_;
  std::string problem_;
  int depth_ = 0;
  Place place_ = Place::none;
  std::string field_;  // at depth 2
  TensorInfo tensor_;
  std::vector<std::uint64_t> offsets_;
  std::array<bool, 3> fields_ = {};
  bool has_metadata_ = false;
};

/// Bytes of a tensor of this type and shape. @throws SafetensorsError
inline std::uint64_t byte_count(const TensorInfo& tensor, const std::string& where) {
  const auto refuse = [&](SafetensorsFault fault, const char* what) {
    throw SafetensorsError(fault, where + in_quotes(tensor.name) + ' ' + what);
  };
  std::uint64_t count = 1;
  for (const std::uint64_t size : tensor.shape) {
    if (__builtin_mul_overflow(count, size, &count)) {
      refuse(SafetensorsFault::validation_overflow, "has a shape that overflows 64 bits");
    }
  }
  if (__builtin_mul_overflow(count, std::uint64_t{bits(tensor.dtype)}, &count)) {
    refuse(SafetensorsFault::validation_overflow, "has a shape that overflows 64 bits");
  }
  if (count % 8 != 0) refuse(SafetensorsFault::misaligned_slice, "ends within a byte");
  return count / 8;
}

/// Sorts the tensors by their places, and their indices by their names.
/// @throws SafetensorsError for two of one name
inline void sort_tensors(SafetensorsHeader& header, const std::string& where) {
  auto& tensors = header.tensors;
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  auto& by_name = header.by_name;
  by_name.resize(tensors.size());
  std::iota(by_name.begin(), by_name.end(), std::size_t{0});
  std::sort(by_name.begin(), by_name.end(),
            [&](std::size_t a, std::size_t b) { return tensors[a].name < tensors[b].name; });
  const auto twice = std::adjacent_find(
      by_name.begin(), by_name.end(),
      [&](std::size_t a, std::size_t b) { return tensors[a].name == tensors[b].name; });
  if (twice == by_name.end()) return;
  throw SafetensorsError(SafetensorsFault::duplicate_name,
                         where + "there are two called " + in_quotes(tensors[*twice].name));
}

/// Checks that the tensors, sorted by their places, follow each other without a gap.
/// @return the bytes they have together; @throws SafetensorsError
inline std::uint64_t check_tensors(const std::deque<TensorInfo>& tensors,
                                   const std::string& where) {
  std::uint64_t at = 0;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.begin != at || tensor.end < tensor.begin) {
      throw SafetensorsError(SafetensorsFault::invalid_offset,
                             where + in_quotes(tensor.name) + " has the offsets " +
                                 std::to_string(tensor.begin) + " and " +
                                 std::to_string(tensor.end) + ", expected to begin at " +
                                 std::to_string(at));
    }
    const std::uint64_t bytes = byte_count(tensor, where);
    if (tensor.end - tensor.begin != bytes) {
      throw SafetensorsError(SafetensorsFault::tensor_invalid_info,
                             where + in_quotes(tensor.name) + " has " +
                                 std::to_string(tensor.end - tensor.begin) +
                                 " bytes, its shape and type need " + std::to_string(bytes));
    }
    at = tensor.end;
  }
  return at;
}

}  // namespace detail

/// Reads and checks the header of a whole file.
/// @param name of the file, for errors
/// @throws SafetensorsError
inline SafetensorsHeader read_safetensors_header(std::span<const std::byte> file,
                                                 const std::string& name) {
  const std::string where = name + ": ";
  const auto require = [&](bool valid, SafetensorsFault fault, const std::string& what) {
    if (!valid) throw SafetensorsError(fault, where + what);
  };
  require(file.size() >= 8, SafetensorsFault::header_too_small,
          "not a safetensors file: it has " + std::to_string(file.size()) + " bytes, fewer than 8");
  std::uint64_t size = 0;
  for (std::size_t i = 0; i < 8; ++i) {
    size |= std::to_integer<std::uint64_t>(file[i]) << (8 * i);
  }
  require(size <= detail::largest_header, SafetensorsFault::header_too_large,
          "not a safetensors file: its header would have " + std::to_string(size) + " bytes");
  require(size <= file.size() - 8, SafetensorsFault::invalid_header_length,
          "ends within its header of " + std::to_string(size) + " bytes");
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8,
                              static_cast<std::size_t>(size));
  require(detail::is_utf8(text), SafetensorsFault::invalid_header, "the header is not UTF-8");

  SafetensorsHeader header;
  detail::HeaderText characters(text);
  detail::HeaderReader reader(characters, header);
  constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";  // which the parser would pass over
  require(text.substr(0, 3) != byte_order_mark, SafetensorsFault::invalid_header_deserialization,
          "the header begins with a mark");
  require(text.find('\0') == std::string_view::npos,  // which ends a text for the parser
          SafetensorsFault::invalid_header_deserialization, "the header has a zero byte");
  const bool valid =
      nlohmann::json::sax_parse(characters.begin(), detail::HeaderText::end(), &reader);
  require(valid, SafetensorsFault::invalid_header_deserialization,
          "the header is damaged: " + reader.problem());

  detail::sort_tensors(header, where);
  const std::uint64_t bytes = detail::check_tensors(header.tensors, where);
  header.data = 8 + size;
  require(bytes == file.size() - header.data, SafetensorsFault::metadata_incomplete_buffer,
          "has " + std::to_string(file.size() - header.data) +
              " bytes of tensors, the header says " + std::to_string(bytes));
  return header;
}

}  // namespace loraplus
