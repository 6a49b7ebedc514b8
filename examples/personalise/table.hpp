#pragma once

#include <filesystem>
#include <loraplus/core/matrix.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace personalise {

using loraplus::Index;

/// A file of rows that cannot be used; says which, and the line and column where.
class TableError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Numbers with a header. What is missing in a row is NaN.
struct Table {
  std::vector<std::string> columns;
  loraplus::Matrix<double> values;  // columns x rows
  std::vector<Index> lines;         // of the file, where each row ends
};

/// Reads a CSV file (RFC 4180): a header, then rows of numbers. An empty field, "NA" or "nan" is
/// missing. A byte order mark before the header is passed over.
/// @throws TableError for a file that cannot be read, a row with another number of fields than the
/// header, or a field that is no number, or one that a float cannot hold
Table read_table(const std::filesystem::path& file);

/// Rows for a network: all columns but the target's, and the targets.
struct Rows {
  loraplus::Matrix<float> inputs;   // features x rows
  loraplus::Matrix<float> targets;  // 1 x rows
  std::vector<Index> lines;         ///< of the file, where each row ends
  Index filled = 0;                 ///< missing inputs, which have the mean of their column
  Index left_out = 0;               ///< rows without a target
};

/// @param target the name of a column; empty: the last one
/// @throws TableError if there is no such column, no row is left, or a column has no value at all
Rows to_rows(const Table& table, const std::string& target, const std::string& file);

/// @throws TableError that names the line of the first target that is none of so many classes
void require_classes(const Rows& rows, Index classes, const std::string& file);

}  // namespace personalise
