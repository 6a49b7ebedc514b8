#include "document.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ostream>

#include "finetune_mlp/text.hpp"

namespace lab {
namespace {

void print_table(std::ostream& out, const Table& table) {
  std::vector<std::size_t> widths;
  for (const std::string& cell : table.header) {
    widths.push_back(cell.size());
  }
  for (const auto& row : table.rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  const auto print_row = [&](const std::vector<std::string>& row) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string gap(widths[i] - row[i].size(), ' ');
      line += i == 0 ? "  " + row[i] + gap : "  " + gap + row[i];
    }
    out << line << '\n';
  };
  if (!table.caption.empty()) out << table.caption << '\n';
  print_row(table.header);
  for (const auto& row : table.rows) {
    print_row(row);
  }
  out << '\n';
}

void print_block(std::ostream& out, const Block& block) {
  if (const auto* text = std::get_if<std::string>(&block)) out << *text << "\n\n";
  if (const auto* table = std::get_if<Table>(&block)) print_table(out, *table);
}

}  // namespace

void print(std::ostream& out, const Document& document) {
  for (const Section& section : document.sections) {
    out << "== " << section.title << "\n\n";
    for (const Block& block : section.blocks) {
      print_block(out, block);
    }
  }
  if (!document.verdicts.empty()) out << "== Verdicts\n\n";
  for (const Verdict& verdict : document.verdicts) {
    out << verdict.name << ' ' << verdict.result << ": " << verdict.claim
        << "\n   rule: " << verdict.rule << "\n   evidence: " << verdict.evidence << "\n\n";
  }
}

std::string brief(double value) {
  return std::isnan(value) ? "-" : finetune::brief(value);
}

std::string gain_text(double gain) {
  char text[32];
  std::snprintf(text, sizeof text, "%+.1f %%", 100 * std::expm1(gain));
  return text;
}

std::string power_text(double log2) {
  char text[32];
  std::snprintf(text, sizeof text, "2^%.3g", log2);
  return text;
}

std::string ratio_text(int ratio_log2) {
  const std::string power = std::to_string(1L << std::abs(ratio_log2));
  return ratio_log2 < 0 ? "1/" + power : power;
}

}  // namespace lab
