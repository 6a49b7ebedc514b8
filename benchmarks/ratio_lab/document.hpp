// What an experiment has to say, whether it is printed or made into a page.
#pragma once

#include <iosfwd>
#include <string>
#include <variant>
#include <vector>

namespace lab {

struct Table {
  std::string caption;
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
};

/// A picture, by the commands that have gnuplot draw it once terminal and output are set.
struct Picture {
  std::string name;  ///< of its file, without an ending
  std::string caption;
  std::string script;
};

using Block = std::variant<std::string, Table, Picture>;

struct Section {
  std::string title;
  std::vector<Block> blocks;
};

/// A claim, the rule by which it is judged, and what came out.
struct Verdict {
  std::string name;  ///< "R1"
  std::string claim;
  std::string rule;
  std::string result;  ///< "reproduced", "partial", "failed", "not tested"
  std::string evidence;
};

struct Document {
  std::string title;
  std::vector<Verdict> verdicts = {};
  std::vector<Section> sections = {};
};

/// Sections as plain text, without the pictures.
void print(std::ostream& out, const Document& document);

/// "0.0123" with three significant digits; "-" for NaN.
std::string brief(double value);
/// "+5.1 %": a gain, which is a difference of logarithms, as a share.
std::string gain_text(double gain);
/// "2^-4.5"
std::string power_text(double log2);
/// "1/4", "16"
std::string ratio_text(int ratio_log2);

}  // namespace lab
