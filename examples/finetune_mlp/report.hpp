// What was measured, for people and for programs.
#pragma once

#include <iosfwd>
#include <string>

#include "results.hpp"

namespace finetune {

/// The settings, the table and what is to be known to read it.
void print_report(std::ostream& out, const Options& options, const Results& results);

/// summary.json: the figures of the table, those of each run and trial, and all settings.
std::string summary_json(const Options& options, const Results& results);

/// curves.csv: method, seed, step, loss, accuracy
std::string curves_csv(const Results& results);

}  // namespace finetune
