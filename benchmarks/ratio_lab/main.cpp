// What is the ratio of LoRA+'s two learning rates worth? `ratio_lab --help` tells what can be
// asked.
#include <filesystem>
#include <fstream>
#include <iostream>

#include "finetune_mlp/files.hpp"
#include "finetune_mlp/interrupt.hpp"
#include "options.hpp"
#include "report.hpp"
#include "run.hpp"

namespace {

using lab::Json;

constexpr int exit_interrupted = 130;  // 128 + SIGINT, as shells have it

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    const std::size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos)
      return line.substr(colon + 2);
  }
  return "unknown";
}

Json made_by(int argc, char** argv, unsigned threads) {
  std::string command = "ratio_lab";
  for (int i = 1; i < argc; ++i) {
    command += std::string(" ") + argv[i];
  }
  const std::string version = std::to_string(LORAPLUS_VERSION_MAJOR) + '.' +
                              std::to_string(LORAPLUS_VERSION_MINOR) + '.' +
                              std::to_string(LORAPLUS_VERSION_PATCH);
  return {
      {"command", command},
      {"loraplus", version},
      {"Eigen", std::to_string(EIGEN_WORLD_VERSION) + '.' + std::to_string(EIGEN_MAJOR_VERSION) +
                    '.' + std::to_string(EIGEN_MINOR_VERSION)},
      {"compiler", RATIO_LAB_COMPILER},
      {"flags", RATIO_LAB_FLAGS},
      {"processor", processor()},
      {"threads", threads}};
}

/// Says so if the finished trials were made by another build or machine: bits may differ.
void warn_of_other_maker(const Json& before, const Json& now) {
  for (const char* name : {"loraplus", "Eigen", "compiler", "flags", "processor"}) {
    if (before.value(name, Json()) == now.at(name)) continue;
    std::cerr << "ratio_lab: the trials before were made with " << name << " = "
              << before.value(name, Json()).dump() << ", now it is " << now.at(name).dump()
              << ": their last bits may differ\n";
  }
}

/// Prints the document and writes its report.
void tell(const lab::Document& document, const lab::Store& store,
          const std::filesystem::path& out) {
  const bool drawn = lab::write_report(out, document, store);
  lab::print(std::cout, document);
  std::cout << "Written to " << out.string()
            << ": report.html, report.json, trials.csv, pictures\n";
  if (!drawn) {
    std::cerr << "ratio_lab: gnuplot is missing or failed, so pictures are missing; all else is "
                 "complete\n";
  }
  if (!std::cout.flush()) throw std::runtime_error("cannot write to the standard output");
}

int run(const lab::CommandLine& line, const Json& maker) {
  finetune::Progress progress(line.quiet);
  const std::filesystem::path file = line.out / "results.jsonl";
  if (!line.report_only) finetune::prepare_folder(line.out);
  lab::Store store =
      line.report_only ? lab::Store::read(file) : lab::Store(file, line.settings, maker);
  if (!store.notice().empty()) std::cerr << "ratio_lab: " << store.notice() << '\n';
  if (!store.results().empty() && !line.report_only) {
    std::cerr << "ratio_lab: goes on with " << store.results().size() << " finished trials\n";
    warn_of_other_maker(store.made_by(), maker);
  }
  const Json settings = store.settings();
  lab::Problems problems(settings.value("data", ""));
  if (!line.report_only && lab::needs_images(settings)) problems.load_images();
  lab::Runner runner(store, line.threads, progress);
  lab::Lab laboratory{problems, runner};
  finetune::catch_interrupts();
  try {
    tell(lab::run(settings, laboratory), store, line.out);
  } catch (const finetune::Interrupted&) {
    progress.end();
    std::cerr << "ratio_lab: interrupted; " << store.results().size()
              << " finished trials are kept, the same command goes on\n";
    return exit_interrupted;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const lab::CommandLine line = lab::parse(argc, argv);
  if (line.exit_code) return *line.exit_code;
  Eigen::setNbThreads(1);  // trials go side by side
  try {
    if (line.pace) {
      lab::print(std::cout, lab::measure_pace(line.threads));
      return 0;
    }
    return run(line, made_by(argc, argv, line.threads));
  } catch (const std::exception& error) {
    std::cerr << "ratio_lab: " << error.what() << '\n';
    return 1;
  }
}
