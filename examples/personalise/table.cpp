#include "table.hpp"

#include <csv.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>

namespace personalise {
namespace {

constexpr double missing = std::numeric_limits<double>::quiet_NaN();
constexpr const char* byte_order_mark = "\xEF\xBB\xBF";  // as Excel writes it

/// A number, or what stands for a missing one; nothing for all else.
std::optional<double> parse_field(std::string_view text) {
  if (text.empty() || text == "NA" || text == "nan" || text == "NaN") return missing;
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool is_float = std::abs(value) <= std::numeric_limits<float>::max();  // of the network
  if (error != std::errc() || end != text.data() + text.size() || !is_float) return std::nullopt;
  return value;
}

struct RawRow {
  Index line;  // of the file, its last
  std::vector<std::string> fields;
};

/// What the parser finds. Its callbacks are called from C, and throw nothing.
struct Found {
  Index line = 0;
  std::vector<std::string> fields = {};  // of the row that is being read
  std::vector<RawRow> rows = {};
};

void on_field(void* text, std::size_t size, void* found) noexcept {
  static_cast<Found*>(found)->fields.emplace_back(static_cast<const char*>(text), size);
}

void on_row(int /*ending*/, void* context) noexcept {
  auto& found = *static_cast<Found*>(context);
  found.rows.push_back({found.line, std::exchange(found.fields, {})});
}

/// The parser of libcsv, for as long as it lives.
class Parser {
 public:
  Parser() {
    if (csv_init(&parser_, CSV_APPEND_NULL | CSV_STRICT | CSV_STRICT_FINI) != 0) {
      throw std::bad_alloc();
    }
  }
  Parser(const Parser&) = delete;
  Parser& operator=(const Parser&) = delete;
  ~Parser() { csv_free(&parser_); }

  csv_parser& get() { return parser_; }

 private:
  csv_parser parser_;
};

/// The rows of a file as text.
std::vector<RawRow> read_rows(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw TableError("cannot read " + file.string() + ": " + std::strerror(errno));
  Found found;
  Parser parser;
  std::string line;
  while (std::getline(stream, line)) {
    if (++found.line == 1 && line.starts_with(byte_order_mark)) line.erase(0, 3);
    if (!stream.eof()) line += '\n';
    if (csv_parse(&parser.get(), line.data(), line.size(), on_field, on_row, &found) !=
        line.size()) {
      throw TableError(file.string() + ", line " + std::to_string(found.line) + ": " +
                       csv_strerror(csv_error(&parser.get())));
    }
  }
  if (csv_fini(&parser.get(), on_field, on_row, &found) != 0) {
    throw TableError(file.string() + " ends within a quoted field");
  }
  return std::move(found.rows);
}

/// The numbers of a row. @throws TableError
std::vector<double> parse_row(const RawRow& row, const std::vector<std::string>& columns,
                              const std::string& file) {
  const std::string where = file + ", line " + std::to_string(row.line) + ": ";
  if (row.fields.size() != columns.size()) {
    throw TableError(where + std::to_string(row.fields.size()) + " fields, the header has " +
                     std::to_string(columns.size()));
  }
  std::vector<double> values;
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const auto value = parse_field(row.fields[i]);
    if (!value) {
      throw TableError(where + "column '" + columns[i] +
                       "' must be a number of at most 3.4e38, found '" + row.fields[i] + "'");
    }
    values.push_back(*value);
  }
  return values;
}

}  // namespace

Table read_table(const std::filesystem::path& file) {
  std::vector<RawRow> rows = read_rows(file);
  if (rows.empty()) throw TableError(file.string() + " is empty: it must begin with a header");
  Table table{std::move(rows.front().fields), {}, {}};
  table.values.resize(static_cast<Index>(table.columns.size()),
                      static_cast<Index>(rows.size()) - 1);
  for (std::size_t i = 1; i < rows.size(); ++i) {
    const auto values = parse_row(rows[i], table.columns, file.string());
    table.values.col(static_cast<Index>(i) - 1) =
        Eigen::Map<const Eigen::VectorXd>(values.data(), table.values.rows());
    table.lines.push_back(rows[i].line);
  }
  return table;
}

Rows to_rows(const Table& table, const std::string& target, const std::string& file) {
  const auto columns = static_cast<Index>(table.columns.size());
  Index target_column = columns - 1;
  if (!target.empty()) {
    const auto found = std::find(table.columns.begin(), table.columns.end(), target);
    if (found == table.columns.end()) {
      throw TableError(file + " has no column '" + target + "'");
    }
    target_column = found - table.columns.begin();
  }
  std::vector<Index> kept;
  for (Index row = 0; row < table.values.cols(); ++row) {
    if (!std::isnan(table.values(target_column, row))) kept.push_back(row);
  }
  if (kept.empty()) {
    throw TableError(file + " has no row with a value in '" +
                     table.columns[static_cast<std::size_t>(target_column)] + "'");
  }
  const auto count = static_cast<Index>(kept.size());
  Rows rows{loraplus::Matrix<float>(columns - 1, count), loraplus::Matrix<float>(1, count), {}};
  for (const Index row : kept) {
    rows.lines.push_back(table.lines[static_cast<std::size_t>(row)]);
  }
  rows.left_out = table.values.cols() - count;
  rows.targets = table.values(Eigen::seqN(target_column, 1), kept).cast<float>();
  for (Index column = 0, feature = 0; column < columns; ++column) {
    if (column == target_column) continue;
    const Eigen::RowVectorXd values = table.values(column, kept);
    const auto known = !values.array().isNaN();
    if (!known.any()) {
      throw TableError(file + ": column '" + table.columns[static_cast<std::size_t>(column)] +
                       "' has no value at all");
    }
    const double mean = known.select(values.array(), 0).sum() / static_cast<double>(known.count());
    rows.filled += count - known.count();
    rows.inputs.row(feature++) = known.select(values.array(), mean).matrix().cast<float>();
  }
  return rows;
}

void require_classes(const Rows& rows, Index classes, const std::string& file) {
  for (Index i = 0; i < rows.targets.cols(); ++i) {
    const float target = rows.targets(0, i);
    if (target == std::floor(target) && target >= 0 && target < static_cast<float>(classes)) {
      continue;
    }
    std::ostringstream found;
    found << target;
    throw TableError(file + ", line " + std::to_string(rows.lines[static_cast<std::size_t>(i)]) +
                     ": the target must be one of the classes 0 to " + std::to_string(classes - 1) +
                     " of the network, found " + found.str());
  }
}

}  // namespace personalise
