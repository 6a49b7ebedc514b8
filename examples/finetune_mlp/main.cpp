// How much of full fine-tuning do LoRA and LoRA+ reach, with how many parameters, in how many
// steps? `finetune_mlp --help` tells what can be chosen.
#include <chrono>
#include <exception>
#include <iostream>

#include "data.hpp"
#include "experiment.hpp"
#include "files.hpp"
#include "interrupt.hpp"
#include "options.hpp"
#include "plot.hpp"
#include "progress.hpp"
#include "report.hpp"

namespace {

using namespace finetune;

constexpr int exit_interrupted = 130;  // 128 + SIGINT, as shells have it

Results measure(const Options& options) {
  const auto start = std::chrono::steady_clock::now();
  Results results;
  Progress progress(options.quiet);
  try {
    run_experiment(options, load(options), progress, results);
  } catch (const Interrupted&) {
    progress.end();
    results.interrupted = true;
  }
  results.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return results;
}

void write_results(const Options& options, const Results& results) {
  write_atomically(options.out / "summary.json", summary_json(options, results));
  write_atomically(options.out / "curves.csv", curves_csv(results));
  write_atomically(options.out / "curves.gp", plot_script(options, results));
  const bool has_runs = !results.methods.empty() && !results.methods.front().runs.empty();
  const bool drawn = has_runs && draw(options.out);
  std::cout << "\nWritten to " << options.out.string() << ": summary.json, curves.csv, curves.gp"
            << (drawn ? ", curves.svg" : "") << '\n';
  if (has_runs && !drawn) {
    std::cerr << "finetune_mlp: gnuplot is missing or failed, so there is no curves.svg; all else "
                 "is complete\n";
  }
}

int run(const Options& options) {
  prepare_folder(options.out);
  catch_interrupts();
  const Results results = measure(options);
  if (results.interrupted) std::cerr << "finetune_mlp: interrupted; what was done is kept\n";
  print_report(std::cout, options, results);
  write_results(options, results);
  return results.interrupted ? exit_interrupted : 0;
}

}  // namespace

int main(int argc, char** argv) {
  const CommandLine line = parse(argc, argv);
  if (line.exit_code) return *line.exit_code;
  try {
    return run(line.options);
  } catch (const std::exception& error) {
    std::cerr << "finetune_mlp: " << error.what() << '\n';
    return 1;
  }
}
