// The laboratory as a user runs it: killed and begun again, told wrong things, asked for reports.
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <loraplus/core/random.hpp>
#include <nlohmann/json.hpp>
#include <sstream>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/idx_data.hpp"

namespace {

namespace fs = std::filesystem;
using test::read;

struct Ended {
  int code;
  std::string text;  // what it printed, on both streams
};

fs::path fresh_folder(const std::string& name) {
  const fs::path folder = fs::path(RATIO_LAB_FOLDER) / ("program_" + name);
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

/// @param before words before the program's name, as `timeout -s KILL 1`
Ended run(const fs::path& folder, const std::string& arguments, const std::string& before = "") {
  const fs::path text = folder / "printed.txt";
  const int status =
      std::system((before + " '" + RATIO_LAB + "' " + arguments + " --quiet --out '" +
                   (folder / "out").string() + "' > '" + text.string() + "' 2>&1 < /dev/null")
                      .c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read(text)};
}

/// The lines of the results but the first, which tells the command, sorted: threads finish in any
/// order.
std::vector<std::string> trials(const fs::path& folder) {
  std::istringstream content(read(folder / "out" / "results.jsonl"));
  std::vector<std::string> lines;
  std::string line;
  std::getline(content, line);
  while (std::getline(content, line)) {
    lines.push_back(line);
  }
  std::sort(lines.begin(), lines.end());
  return lines;
}

const std::string sweep =
    "sweep --task teacher --width 12 --rank 2 --steps 40 --tuning-seeds 2 --reporting-seeds 3 "
    "--init b";

}  // namespace

TEST_CASE("killed at random moments, the same command ends with the same results, bit for bit") {
  const fs::path whole = fresh_folder("whole");
  const Ended ended = run(whole, sweep + " --threads 2");
  CAPTURE(ended.text);
  REQUIRE(ended.code == 0);
  const auto expected = trials(whole);
  CHECK(expected.size() > 300);

  const fs::path killed = fresh_folder("killed");
  std::mt19937_64 generator{7};
  int kills = 0;
  double patience = 0.1;  // seconds; grows, so that a slow machine comes to the end too
  Ended last{-1, {}};
  while (last.code != 0 && kills < 60) {
    const double seconds = loraplus::uniform(generator, 0.05, patience);
    last = run(killed, sweep + " --threads " + std::to_string(1 + kills % 3),
               "timeout -s KILL " + std::to_string(seconds));
    if (last.code != 0) ++kills;
    patience *= 1.3;
  }
  CAPTURE(last.text, kills);
  REQUIRE(last.code == 0);
  CHECK(kills >= 2);
  CHECK(trials(killed) == expected);
  CHECK(read(killed / "out" / "trials.csv") == read(whole / "out" / "trials.csv"));
  const auto report = nlohmann::json::parse(read(killed / "out" / "report.json"));
  const auto expected_report = nlohmann::json::parse(read(whole / "out" / "report.json"));
  CHECK(report["sections"] == expected_report["sections"]);

  // the report again, from the results alone
  const std::string page = read(whole / "out" / "report.html");
  fs::remove(whole / "out" / "report.html");
  REQUIRE(run(whole, "report").code == 0);
  CHECK(read(whole / "out" / "report.html") == page);
}

TEST_CASE("results that are cut, of other settings, or incomplete are named") {
  const fs::path folder = fresh_folder("named");
  const std::string brief =
      "speed --task teacher --width 8 --rank 1 --steps 10 --tuning-seeds 1 --reporting-seeds 2 "
      "--init b";
  REQUIRE(run(folder, brief).code == 0);
  const fs::path file = folder / "out" / "results.jsonl";
  const std::string whole = read(file);
  const auto expected = trials(folder);

  std::ofstream(file, std::ios::binary) << whole.substr(0, whole.size() - 9);
  const Ended incomplete = run(folder, "report");
  CHECK(incomplete.code == 1);
  CHECK(test::contains(incomplete.text, "missing"));
  const Ended cut = run(folder, brief);
  CHECK(cut.code == 0);
  CHECK(test::contains(cut.text, "was cut off in its middle"));
  CHECK(trials(folder) == expected);

  const Ended other = run(folder, brief + " --ratio 4");
  CHECK(other.code == 1);
  CHECK(test::contains(other.text, "made with ratio_log2 = 4, now it is 2"));
  CHECK(trials(folder) == expected);
  CHECK(run(fresh_folder("nothing"), "report").code == 1);

  std::string by_another = whole;
  by_another.insert(by_another.find("\"compiler\":\"") + 12, "another ");
  std::ofstream(file, std::ios::binary) << by_another;
  const Ended warned = run(folder, brief);
  CHECK(warned.code == 0);
  CHECK(test::contains(warned.text, "made with compiler = \"another "));
}

TEST_CASE("every subcommand ends with a report, and wrong values are refused by name") {
  for (const std::string arguments :
       {"width --task teacher --widths 8 16 --ratios 4 --rank 1 --steps 5 --tuning-seeds 1 "
        "--reporting-seeds 2",
        "theory --largest-width 128 --tuning-seeds 1 --reporting-seeds 2",
        "compare --task teacher --width 8 --rank 1 --steps 5 --tuning-seeds 1 --reporting-seeds 2",
        "speed --task teacher --width 8 --rank 1 --steps 10 --tuning-seeds 1 --reporting-seeds "
        "2"}) {
    const fs::path folder = fresh_folder("all");
    const Ended ended = run(folder, arguments);
    CAPTURE(arguments, ended.text);
    CHECK(ended.code == 0);
    for (const char* name : {"report.html", "report.json", "trials.csv", "results.jsonl"}) {
      CHECK(fs::file_size(folder / "out" / name) > 100);
    }
  }
  const fs::path folder = fresh_folder("refusals");
  for (const std::string bad :
       {"--rank 0", "--task flip", "--steps 1.5", "--init c", "--optimizer lion", "--scaling -1",
        "--tuning-seeds 0", "--unknown"}) {
    CAPTURE(bad);
    const Ended ended = run(folder, "sweep " + bad);
    CHECK(ended.code == 2);
    CHECK(test::contains(ended.text, bad.substr(0, bad.find(' '))));
  }
  CHECK(run(folder, "speed --ratio 3").code == 2);
  CHECK(run(folder, "reproduce --budget 5m").code == 2);
  CHECK(run(folder, "").code == 2);
  const Ended help = run(folder, "--help");
  CHECK(help.code == 0);
  CHECK(test::contains(help.text, "reproduce"));
  for (const std::string needs_data : {"sweep --task invert", "reproduce --budget 30m"}) {
    const Ended no_data = run(folder, needs_data + " --data /nonexistent");
    CHECK(no_data.code == 1);
    CHECK(test::contains(no_data.text, "/nonexistent"));
    fs::remove_all(folder / "out");
  }
}
