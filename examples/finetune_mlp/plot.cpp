#include "plot.hpp"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <sstream>

#include "tasks.hpp"
#include "text.hpp"

namespace finetune {
namespace {

namespace fs = std::filesystem;

/// Colours that people with any kind of colour vision tell apart (Okabe and Ito).
const char* colour_of(Method method) {
  switch (method) {
    case Method::full:
      return "#6f6f6f";
    case Method::lora:
      return "#0072b2";
    case Method::lora_plus:
      return "#d55e00";
  }
  return "black";
}

const char* variable_of(Method method) {
  switch (method) {
    case Method::full:
      return "$full";
    case Method::lora:
      return "$lora";
    case Method::lora_plus:
      return "$lora_plus";
  }
  return "";
}

/// Lines of step, median, least and largest accuracy, in percent.
std::string data_block(const MethodResult& result) {
  std::map<Index, std::vector<double>> accuracies;
  for (const Run& run : result.runs) {
    for (const CurvePoint& point : run.curve) {
      accuracies[point.step].push_back(100 * point.accuracy);
    }
  }
  std::ostringstream block;
  block << variable_of(result.method) << " << end\n";
  for (const auto& [step, values] : accuracies) {
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    block << step << ' ' << median(values) << ' ' << *least << ' ' << *most << '\n';
  }
  block << "end\n";
  return block.str();
}

/// A string for gnuplot, in which only a quotation mark is special.
std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) {
    result += c;
    if (c == '\'') result += c;
  }
  return result + '\'';
}

/// The same for a POSIX shell.
std::string shell_quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) {
    result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return result + '\'';
}

std::string subtitle(const Options& options, const Results& results) {
  return std::string(description(options.optimizer)) + ", " + grouped(results.samples) +
         " images, rank " + std::to_string(options.rank) + ", LoRA+ ratio " + brief(options.ratio) +
         ". Lines: median of the runs, bands: their range.";
}

}  // namespace

std::string plot_script(const Options& options, const Results& results) {
  std::ostringstream script;
  std::ostringstream bands;
  std::ostringstream lines;
  for (const MethodResult& result : results.methods) {
    if (result.runs.empty()) continue;
    script << data_block(result);
    const std::string data = variable_of(result.method);
    const std::string colour = quoted(colour_of(result.method));
    bands << "  " << data << " using 1:3:4 with filledcurves lc rgb " << colour << " notitle, \\\n";
    lines << ", \\\n  " << data << " using 1:2 with lines lw 2.5 lc rgb " << colour << " title "
          << quoted(name_of(result.method));
  }
  script << "if (!exists('output')) output = 'curves.svg'\n"
            "set encoding utf8\n"
            "set terminal svg size 900,560 noenhanced font 'Helvetica,Arial,sans-serif,14' "
            "background '#ffffff'\n"
            "set output output\n"
         << "set label 1 " << quoted(results.data_name + ", images " + description(options.task))
         << " at graph 0, graph 1.115 font ',18' textcolor rgb '#222222'\n"
         << "set label 2 " << quoted(subtitle(options, results))
         << " at graph 0, graph 1.05 font ',13' textcolor rgb '#666666'\n"
         << "set tmargin 4.5\n"
            "set rmargin 4\n"
            "set border 3 lc rgb '#999999'\n"
            "set tics nomirror textcolor rgb '#444444'\n"
            "set grid ytics lt 1 lw 0.6 lc rgb '#e4e4e4'\n"
            "set xlabel 'training step' textcolor rgb '#444444'\n"
            "set ylabel 'test accuracy, %' textcolor rgb '#444444'\n"
            "set key bottom right Left reverse samplen 2 spacing 1.3 textcolor rgb '#222222'\n"
            "set style fill transparent solid 0.18 noborder\n"
         << "set offsets 0, 0, graph 0.03, graph 0.03\n"
            "set xrange [0:"
         << options.steps << "]\n"
         << "target = " << 100 * results.target << '\n'
         << "plot \\\n"
         << bands.str() << "  target with lines lw 1.5 dt (8,6) lc rgb '#222222' title "
         << "sprintf('target, %.1f %%', target)" << lines.str() << '\n';
  return script.str();
}

bool draw(const fs::path& folder) {
  const fs::path picture = folder / "curves.svg";
  const fs::path unfinished = folder / "curves.svg.tmp";
  const std::string command = "CDPATH= cd -- " + shell_quoted(fs::absolute(folder).string()) +
                              " && LC_ALL=C.UTF-8 gnuplot -e \"output='curves.svg.tmp'\" curves.gp";
  std::error_code error;
  if (std::system(command.c_str()) == 0) {
    fs::rename(unfinished, picture, error);
    if (!error) return true;
  }
  fs::remove(unfinished, error);
  fs::remove(picture, error);
  return false;
}

}  // namespace finetune
