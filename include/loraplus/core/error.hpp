// SPDX-License-Identifier: MIT
//
// What the library throws. Construction, shapes at the entry of a layer and misuse of a state are
// checked in every build: a check is a few integer comparisons beside a matrix product.
#pragma once

#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <loraplus/core/matrix.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace loraplus::inline v0_1 {

/// An argument outside its documented range.
class ArgumentError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// A matrix of the wrong size; says which one, what was expected and what was found.
class ShapeError : public ArgumentError {
 public:
  using ArgumentError::ArgumentError;
};

/// A call that does not fit the state of the object, as a backward pass of a merged layer.
class StateError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// A NaN or an infinity where the result would be lost by going on.
class NonFiniteError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws Error(message). A program compiled without exceptions has none to throw: there the
/// message goes to stderr, and the program is aborted.
template <typename Error>
[[noreturn]] void raise(const std::string& message) {
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
  throw Error(message);
#else
  std::fprintf(stderr, "loraplus: %s\n", message.c_str());
  std::abort();
#endif
}

namespace detail {

inline std::string shape_text(Index rows, Index cols) {
  return std::to_string(rows) + " x " + std::to_string(cols);
}

[[noreturn]] inline void throw_shape_error(std::string_view where, std::string_view what,
                                           Index expected_rows, Index expected_cols, Index rows,
                                           Index cols) {
  raise<ShapeError>(std::string(where) + ": " + std::string(what) + " must be " +
                    shape_text(expected_rows, expected_cols) + ", found " + shape_text(rows, cols));
}

}  // namespace detail

/// Throws ArgumentError "<where>: <what>, found <value>" unless `valid`.
inline void require_argument(bool valid, std::string_view where, std::string_view what,
                             double value) {
  if (valid) return;
  // As a stream has it, which would weigh half a megabyte in a static program.
  std::array<char, 32> number = {};
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg)
  std::snprintf(number.data(), number.size(), "%g", value);
  raise<ArgumentError>(std::string(where) + ": " + std::string(what) + ", found " + number.data());
}

/// Throws ShapeError unless `matrix`, which has rows() and cols(), is rows x cols.
/// @param where the function that was called, @param what the name of the matrix in its signature
template <typename M>
void require_shape(std::string_view where, std::string_view what, const M& matrix, Index rows,
                   Index cols) {
  if (matrix.rows() != rows || matrix.cols() != cols) {
    detail::throw_shape_error(where, what, rows, cols, matrix.rows(), matrix.cols());
  }
}

namespace detail {

/// Whether two batches have memory in common. Blocks of one matrix are told apart, by columns and
/// by rows; of batches whose columns have other distances it is only known where one has no gaps.
template <typename A, typename B>
bool share_memory(const A& a, const B& b) {
  if (a.size() == 0 || b.size() == 0) return false;
  const auto* a_end = a.data() + (a.cols() - 1) * a.outerStride() + a.rows();
  const auto* b_end = b.data() + (b.cols() - 1) * b.outerStride() + b.rows();
  const std::less<> before;
  if (!before(a.data(), b_end) || !before(b.data(), a_end)) return false;
  const Index stride = a.outerStride();
  if (stride != b.outerStride()) {
    return a.rows() == stride || b.rows() == b.outerStride();
  }
  const Index row = ((b.data() - a.data()) % stride + stride) % stride;  // where b begins in a
  return row < a.rows() || row + b.rows() > stride;
}

}  // namespace detail

/// Throws ArgumentError if an output has memory in common with an input: products read the one
/// while they write the other.
template <typename Input, typename Output>
void require_distinct(std::string_view where, const Input& input, const Output& output) {
  if (detail::share_memory(input, output)) {
    raise<ArgumentError>(std::string(where) + ": an output must not be the memory of an input");
  }
}

/// Throws ShapeError unless the batch fits a cache made for `largest` samples.
inline void require_batch_fits(std::string_view where, Index samples, Index largest) {
  if (samples > largest) {
    raise<ShapeError>(std::string(where) + ": a batch of " + std::to_string(samples) +
                      " samples, there is room for at most " + std::to_string(largest));
  }
}

/// Throws ArgumentError that names the first token that is not in the vocabulary.
inline void require_tokens(std::string_view where, std::span<const Index> tokens,
                           Index vocabulary) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && tokens[i] < vocabulary) continue;
    raise<ArgumentError>(std::string(where) + ": token " + std::to_string(i) + " is " +
                         std::to_string(tokens[i]) + ", the vocabulary has " +
                         std::to_string(vocabulary));
  }
}

}  // namespace loraplus
