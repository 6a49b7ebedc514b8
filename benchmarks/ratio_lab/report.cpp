#include "report.hpp"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <sstream>

#include "finetune_mlp/files.hpp"

namespace lab {
namespace {

namespace fs = std::filesystem;

constexpr const char* style = R"(
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.85rem; display: block; overflow-x: auto; }
caption { text-align: left; color: #555; padding-bottom: 0.4rem; }
th, td { padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid #eee; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #bbb; }
figure { margin: 1rem 0; } figcaption { color: #555; font-size: 0.9rem; } svg { max-width: 100%; height: auto; }
.verdict { border-left: 0.4rem solid #999; padding: 0.1rem 1rem; margin: 1rem 0; background: #fafafa; }
.reproduced { border-color: #009e73; } .partial { border-color: #e69f00; } .failed { border-color: #d55e00; }
.verdict small { color: #555; display: block; } code { background: #f3f3f3; }
)";

constexpr const char* introduction = R"(
<p>LoRA adapts a trained network without touching its weights W: beside each it trains two thin
matrices, and the layer computes W x + s B (A x). At the start one of them is random and the other
zero, so that nothing is changed: <em>A random</em> (B = 0, Init[1], what most software does) or
<em>B random</em> (A = 0, Init[2], what the paper's own runs did). LoRA+ gives B a larger learning
rate than A; the <em>ratio</em> says how much larger. Here the two rates are written as their
geometric mean g, which is tuned anew for every method, and the ratio: so that a ratio is not
credited with what a better rate did. <em>n</em> is the width of the adapted layer, the one whose
growth the theory speaks of.</p>
<p>Rates were chosen on some seeds, of first factors and batches, and validation samples; what is
reported comes from other seeds and from test samples that had no part in any choice. The frozen
networks, three for each width, are the same in both. Runs are paired by seed. A run whose loss
grew tenfold or was lost to infinity counts as diverged, with ten times the loss before training;
none is left out.</p>
)";

std::string html_table(const Table& table) {
  std::string html = "<table><caption>" + escaped(table.caption) + "</caption>\n<tr>";
  for (const std::string& cell : table.header) {
    html += "<th>" + escaped(cell) + "</th>";
  }
  html += "</tr>\n";
  for (const auto& row : table.rows) {
    html += "<tr>";
    for (const std::string& cell : row) {
      html += "<td>" + escaped(cell) + "</td>";
    }
    html += "</tr>\n";
  }
  return html + "</table>\n";
}

std::string gnuplot_script(const Picture& picture) {
  return "set terminal svg size 760,460 noenhanced font 'Helvetica,Arial,sans-serif,13' background "
         "'#ffffff'\nset grid lc '#e4e4e4'\nset border 3 lc '#999999'\nset tics nomirror\n" +
         picture.script;
}

/// Has gnuplot run a script that prints a picture to its standard output.
/// @return the picture; empty if it could not be drawn
std::string draw(const fs::path& script) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(
      popen(("gnuplot " + script.filename().string() + " 2>/dev/null").c_str(), "r"), pclose);
  std::string picture;
  char part[4096];
  std::size_t count = 0;
  while (pipe && (count = std::fread(part, 1, sizeof part, pipe.get())) > 0) {
    picture.append(part, count);
  }
  return picture.find("</svg>") == std::string::npos ? std::string() : picture;
}

/// The working folder, for as long as it lives another one: gnuplot is given plain file names.
class WorkingFolder {
 public:
  explicit WorkingFolder(const fs::path& folder) : before_(fs::current_path()) {
    fs::current_path(folder);
  }
  WorkingFolder(const WorkingFolder&) = delete;
  WorkingFolder& operator=(const WorkingFolder&) = delete;
  ~WorkingFolder() {
    std::error_code ignored;
    fs::current_path(before_, ignored);
  }

 private:
  fs::path before_;
};

/// Draws all pictures into the folder. @return those that could be drawn, by name
std::map<std::string, std::string> draw_all(const fs::path& folder, const Document& document) {
  std::map<std::string, std::string> drawn;
  const WorkingFolder inside(folder);
  for (const Section& section : document.sections) {
    for (const Block& block : section.blocks) {
      const auto* picture = std::get_if<Picture>(&block);
      if (picture == nullptr) continue;
      finetune::write_atomically(picture->name + ".gp", gnuplot_script(*picture));
      const std::string svg = draw(picture->name + ".gp");
      if (svg.empty()) continue;
      finetune::write_atomically(picture->name + ".svg", svg);
      drawn[picture->name] = svg;
    }
  }
  return drawn;
}

std::size_t count_pictures(const Document& document) {
  std::size_t count = 0;
  for (const Section& section : document.sections) {
    for (const Block& block : section.blocks) {
      count += std::holds_alternative<Picture>(block) ? 1 : 0;
    }
  }
  return count;
}

std::string html_block(const Block& block, const std::map<std::string, std::string>& drawn) {
  if (const auto* text = std::get_if<std::string>(&block)) return "<p>" + escaped(*text) + "</p>\n";
  if (const auto* table = std::get_if<Table>(&block)) return html_table(*table);
  const auto& picture = std::get<Picture>(block);
  const auto found = drawn.find(picture.name);
  if (found == drawn.end()) {
    return "<p><em>Picture " + escaped(picture.name) +
           ": gnuplot was not there to draw it.</em></p>\n";
  }
  const std::string& svg = found->second;
  return "<figure>" + svg.substr(svg.find("<svg")) + "<figcaption>" + escaped(picture.caption) +
         "</figcaption></figure>\n";
}

/// The seeds of all trials: "1 - 8, 1001 - 1010".
std::string seeds_text(const Store& store) {
  std::set<long> seeds;
  for (const auto& [key, result] : store.results()) {
    const std::size_t at = key.find(" seed=");
    if (at != std::string::npos) seeds.insert(std::strtol(key.c_str() + at + 6, nullptr, 10));
  }
  std::string text;
  for (auto first = seeds.begin(); first != seeds.end();) {
    auto last = first;
    while (std::next(last) != seeds.end() && *std::next(last) == *last + 1) {
      ++last;
    }
    text += (text.empty() ? "" : ", ") + std::to_string(*first);
    if (last != first) text += " - " + std::to_string(*last);
    first = std::next(last);
  }
  return text;
}

std::string html_page(const Document& document, const Store& store,
                      const std::map<std::string, std::string>& drawn) {
  std::string html = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>" +
                     escaped(document.title) + "</title><style>" + style +
                     "</style></head><body>\n<h1>" + escaped(document.title) + "</h1>\n" +
                     introduction;
  for (const Verdict& verdict : document.verdicts) {
    html += "<div class=\"verdict " + escaped(verdict.result) + "\"><p><strong>" + verdict.name +
            ' ' + escaped(verdict.result) + ".</strong> " + escaped(verdict.claim) +
            "<small>Rule: " + escaped(verdict.rule) +
            "</small><small>Evidence: " + escaped(verdict.evidence) + "</small></p></div>\n";
  }
  for (const Section& section : document.sections) {
    html += "<h2>" + escaped(section.title) + "</h2>\n";
    for (const Block& block : section.blocks) {
      html += html_block(block, drawn);
    }
  }
  html += "<h2>How this was made</h2>\n<table>\n";
  for (const auto& [name, value] : store.made_by().items()) {
    html += "<tr><td>" + escaped(name) + "</td><td style=\"text-align:left\"><code>" +
            escaped(value.is_string() ? value.get<std::string>() : value.dump()) +
            "</code></td></tr>\n";
  }
  html += "<tr><td>seeds (tuning below 1000, reporting above)</td><td style=\"text-align:left\">" +
          seeds_text(store) + "</td></tr>\n";
  html += "<tr><td>settings</td><td style=\"text-align:left;white-space:normal\"><code>" +
          escaped(store.settings().dump()) +
          "</code></td></tr>\n</table>\n<p>Every trial with its "
          "seed and rates: trials.csv; the tables again: report.json.</p>\n</body></html>\n";
  return html;
}

/// A field of a CSV file.
std::string quoted(const std::string& text) {
  return '"' + text + '"';
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string made;
  for (const char c : text) {
    switch (c) {
      case '&':
        made += "&amp;";
        break;
      case '<':
        made += "&lt;";
        break;
      case '>':
        made += "&gt;";
        break;
      case '"':
        made += "&quot;";
        break;
      default:
        made += c;
    }
  }
  return made;
}

std::string trials_csv(const Store& store) {
  std::string csv = "problem,training,rates,loss,diverged\n";
  for (const auto& [key, result] : store.results()) {
    if (!result.is_object() || !result.contains("loss")) continue;
    const std::size_t first = key.find(" | "), second = key.find(" | ", first + 3);
    csv += quoted(key.substr(0, first)) + ',' + quoted(key.substr(first + 3, second - first - 3)) +
           ',' + quoted(key.substr(second + 3)) + ',' + result["loss"].dump() + ',' +
           (result["diverged"].get<bool>() ? "1" : "0") + '\n';
  }
  return csv;
}

Json report_json(const Document& document, const Store& store) {
  Json json{{"title", document.title},      {"made_by", store.made_by()},
            {"settings", store.settings()}, {"trials", store.results().size()},
            {"verdicts", Json::array()},    {"sections", Json::array()}};
  for (const Verdict& verdict : document.verdicts) {
    json["verdicts"].push_back({{"name", verdict.name},
                                {"result", verdict.result},
                                {"claim", verdict.claim},
                                {"rule", verdict.rule},
                                {"evidence", verdict.evidence}});
  }
  for (const Section& section : document.sections) {
    Json made{{"title", section.title}, {"text", Json::array()}, {"tables", Json::array()}};
    for (const Block& block : section.blocks) {
      if (const auto* text = std::get_if<std::string>(&block)) made["text"].push_back(*text);
      if (const auto* table = std::get_if<Table>(&block)) {
        made["tables"].push_back(
            {{"caption", table->caption}, {"header", table->header}, {"rows", table->rows}});
      }
    }
    json["sections"].push_back(std::move(made));
  }
  return json;
}

bool write_report(const fs::path& folder, const Document& document, const Store& store) {
  const auto drawn = draw_all(folder, document);
  finetune::write_atomically(folder / "report.html", html_page(document, store, drawn));
  finetune::write_atomically(folder / "report.json", report_json(document, store).dump(1) + '\n');
  finetune::write_atomically(folder / "trials.csv", trials_csv(store));
  return drawn.size() == count_pictures(document);
}

}  // namespace lab
