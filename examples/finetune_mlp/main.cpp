// How much of full fine-tuning do LoRA and LoRA+ reach, with how many parameters, in how many
// steps? `finetune_mlp --help` tells what can be chosen.
#include <chrono>
#include <exception>
#include <filesystem>
#include <iostream>
#include <stdexcept>

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
  const Checkpoints checkpoints =
      options.checkpoint || options.resume
          ? Checkpoints(options.out / "checkpoint", options, options.resume)
          : Checkpoints();
  Results results;
  Progress progress(options.quiet);
  try {
    run_experiment(options, load(options), checkpoints, progress, results);
  } catch (const Interrupted&) {
    progress.end();
    results.interrupted = true;
  }
  results.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return results;
}

/// @return whether a picture could be drawn, if there is a run to draw
bool write_results(const Options& options, const Results& results) {
  write_atomically(options.out / "summary.json", summary_json(options, results));
  write_atomically(options.out / "curves.csv", curves_csv(results));
  write_atomically(options.out / "curves.gp", plot_script(options, results));
  if (!results.methods.front().runs.empty()) return draw(options.out);
  std::filesystem::remove(options.out / "curves.svg");  // of an earlier run
  return true;
}

void report(const Options& options, const Results& results, bool drawn) {
  print_report(std::cout, options, results);
  std::cout << "\nWritten to " << options.out.string() << ": summary.json, curves.csv, curves.gp"
            << (drawn && !results.methods.front().runs.empty() ? ", curves.svg" : "") << std::endl;
  if (!drawn) {
    std::cerr << "finetune_mlp: gnuplot is missing or failed, so there is no curves.svg; all else "
                 "is complete\n";
  }
  if (!std::cout) throw std::runtime_error("cannot write to the standard output");
}

int run(const Options& options) {
  prepare_folder(options.out);
  catch_interrupts();
  const Results results = measure(options);
  if (results.interrupted && !results.has_figures()) {
    std::cerr << "finetune_mlp: interrupted before there was a figure; nothing is written\n";
    return exit_interrupted;
  }
  const bool drawn = write_results(options, results);  // first of all: printing may fail
  if (results.interrupted) std::cerr << "finetune_mlp: interrupted; what was done is kept\n";
  report(options, results, drawn);
  return results.interrupted ? exit_interrupted : 0;
}

}  // namespace

int main(int argc, char** argv) {
  const CommandLine line = parse(argc, argv);
  if (line.exit_code) return *line.exit_code;
  // Whole runs go side by side, and the time of a step is told for one thread.
  Eigen::setNbThreads(1);
  try {
    return run(line.options);
  } catch (const std::exception& error) {
    std::cerr << "finetune_mlp: " << error.what() << '\n';
    return 1;
  }
}
