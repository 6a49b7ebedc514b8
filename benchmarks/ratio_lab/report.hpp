#pragma once

#include <filesystem>

#include "document.hpp"
#include "store.hpp"

namespace lab {

/// Writes report.html (one page that needs nothing beside it), report.json, trials.csv and the
/// pictures as SVG files with the gnuplot scripts that draw them.
/// @return whether gnuplot drew every picture; the page is complete but for those
bool write_report(const std::filesystem::path& folder, const Document& document,
                  const Store& store);

/// A row for each finished trial: "problem,training,rates,loss,diverged".
std::string trials_csv(const Store& store);

/// What is on the page, without the pictures.
Json report_json(const Document& document, const Store& store);

/// Text with the characters that HTML means otherwise.
std::string escaped(const std::string& text);

}  // namespace lab
