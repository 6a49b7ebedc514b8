// The parts of the example finetune_mlp, and the program as a user runs it, on small IDX files
// that this test writes.
#include <sys/wait.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <loraplus/train/evaluate.hpp>
#include <nlohmann/json.hpp>
#include <sstream>

#include "finetune_mlp/data.hpp"
#include "finetune_mlp/idx.hpp"
#include "finetune_mlp/interrupt.hpp"
#include "finetune_mlp/results.hpp"
#include "finetune_mlp/run.hpp"
#include "finetune_mlp/tasks.hpp"
#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/idx_data.hpp"
#include "support/matrices.hpp"

namespace {

namespace fs = std::filesystem;
using finetune::Labelled;
using finetune::Task;
using loraplus::Index;
using loraplus::Matrix;

constexpr int side = test::image_side;
using test::big_endian;
using test::read;
using test::write;

/// A fresh folder with a small data set.
fs::path make_data(const std::string& name) {
  const fs::path folder = fs::path(FINETUNE_FOLDER) / name;
  test::make_idx_data(folder);
  return folder;
}

struct Ended {
  int code;
  std::string text;  // what it printed, on both streams
};

Ended run(const std::string& arguments, const fs::path& folder) {
  const fs::path text = folder / "printed.txt";
  const int status = std::system(
      (std::string(FINETUNE_MLP) + ' ' + arguments + " > '" + text.string() + "' 2>&1 < /dev/null")
          .c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read(text)};
}

const std::string brief = " --pretrain-epochs 10 --steps 20 --trials 2 --seeds 2 --batch 16";

std::string idx_error(const fs::path& file) {
  return test::message_of<finetune::IdxError>([&] { finetune::read_idx_images(file); });
}

}  // namespace

TEST_CASE("IDX files are read, plain and gzipped") {
  const fs::path folder = make_data("idx");
  const auto gzipped = finetune::read_idx_images(folder / "train-images-idx3-ubyte.gz");
  CHECK(gzipped.rows == side);
  CHECK(gzipped.cols == side);
  CHECK(gzipped.pixels.cols() == 360);
  CHECK(gzipped.pixels(3, 13) == 255);
  const auto plain = finetune::read_idx_images(folder / "t10k-images-idx3-ubyte");
  CHECK(plain.pixels == gzipped.pixels.leftCols(60));
  CHECK(finetune::read_idx_labels(folder / "train-labels-idx1-ubyte")[13] == 3);
}

TEST_CASE("files that are not what they should be are refused by name and reason") {
  const fs::path folder = make_data("bad_idx");
  const fs::path file = folder / "t10k-images-idx3-ubyte";
  const auto refusal = [&](const std::string& content) {
    write(file, content);
    const std::string message = idx_error(file);
    CHECK(test::contains(message, file.string()));
    return message;
  };
  CHECK(test::contains(refusal(test::idx_labels(60)), "0x00000803, found 0x00000801"));
  CHECK(test::contains(refusal(""), "truncated"));
  CHECK(test::contains(refusal(test::idx_images(60).substr(0, 1000)), "truncated"));
  CHECK(test::contains(refusal(test::idx_images(60) + "x"), "more data"));
  CHECK(test::contains(refusal(big_endian(0x803) + big_endian(0xFFFFFFFFU) +
                               big_endian(0xFFFFFFFFU) + big_endian(0xFFFFFFFFU)),
                       "implausible"));
  CHECK(test::contains(idx_error(folder / "absent"), "cannot be opened"));
  const std::string whole = read(folder / "train-images-idx3-ubyte.gz");
  write(file, whole.substr(0, whole.size() / 2));
  CHECK(test::contains(idx_error(file), file.string()));
}

TEST_CASE("the shifts do to images what they say") {
  const Labelled upright{test::random_matrix<float>(side * side, 3, 1).cwiseAbs(), {0, 4, 9}};
  Labelled turned = upright;
  for (int turn = 0; turn < 4; ++turn) {
    turned = finetune::shifted(Task::rotate90, turned, side);
    CHECK(turned.labels == upright.labels);
    if (turn == 0) {
      // clockwise: the first row becomes the last column
      CHECK(turned.inputs(side - 1, 0) == upright.inputs(0, 0));
      CHECK(turned.inputs(side * side - 1, 0) == upright.inputs(side - 1, 0));
    }
  }
  CHECK(turned.inputs == upright.inputs);

  const Labelled inverted = finetune::shifted(Task::invert, upright, side);
  CHECK(inverted.labels == std::vector<int>{1, 5, 0});
  CHECK(inverted.inputs == (1 - upright.inputs.array()).matrix());

  // a round spot in the middle looks the same when it is turned
  Labelled spot{Matrix<float>(side * side, 1), {0}};
  for (int pixel = 0; pixel < side * side; ++pixel) {
    const double row = pixel / side - (side - 1) / 2.0;
    const double col = pixel % side - (side - 1) / 2.0;
    spot.inputs(pixel) = static_cast<float>(std::exp(-(row * row + col * col) / 8));
  }
  const Labelled slanted = finetune::shifted(Task::rotate15, spot, side);
  CHECK((slanted.inputs - spot.inputs).cwiseAbs().maxCoeff() < 0.1);
  // and one to the right goes down, as clockwise it must
  Labelled right{Matrix<float>::Zero(side * side, 1), {0}};
  right.inputs(3 * side + 7) = 1;
  const Labelled lowered = finetune::shifted(Task::rotate15, right, side);
  Index brightest = 0;
  lowered.inputs.col(0).maxCoeff(&brightest);
  CHECK(brightest / side > 3);
}

TEST_CASE("the median stands with runs that never reach a target") {
  const double never = std::numeric_limits<double>::infinity();
  CHECK(finetune::median({3, 1, 2}) == 2);
  CHECK(finetune::median({4, 1, 2, 3}) == 2.5);
  CHECK(finetune::median({never, 1, 2}) == 2);
  CHECK(finetune::median({never, never, 2}) == never);
}

TEST_CASE("every task is run and leaves complete files whose figures are those printed") {
  const fs::path folder = make_data("tasks");
  for (const std::string task : {"rotate15", "rotate90", "invert"}) {
    const fs::path out = folder / task;
    const Ended ended = run("--task " + task + " --data '" + folder.string() + "' --out '" +
                                out.string() + "' --quiet" + brief,
                            folder);
    CAPTURE(task, ended.text);
    REQUIRE(ended.code == 0);
    const auto summary = nlohmann::json::parse(read(out / "summary.json"));
    CHECK_FALSE(summary.at("interrupted").get<bool>());
    CHECK(summary.at("settings").at("task") == task);
    REQUIRE(summary.at("methods").size() == 3);
    for (const auto& method : summary.at("methods")) {
      CHECK(method.at("trials").size() == 2);  // as many for every method
      CHECK(method.at("runs").size() == 2);
      CHECK(method.at("optimizer_state_bytes") ==
            8 * method.at("trainable_parameters").get<long>());  // two moments of AdamW
      char accuracy[32];
      std::snprintf(accuracy, sizeof accuracy, "%.1f %%",
                    100 * method.at("accuracy_after").at("median").get<double>());
      CHECK(test::contains(ended.text, accuracy));
      CHECK(test::contains(ended.text, method.at("method").get<std::string>()));
    }
    const std::string curves = read(out / "curves.csv");
    CHECK(curves.rfind("method,seed,step,loss,accuracy\n", 0) == 0);
    CHECK(test::contains(curves, "\nLoRA+,"));
    CHECK(test::contains(read(out / "curves.gp"), "plot"));
  }
}

TEST_CASE("the numbers do not depend on the number of threads") {
  const fs::path folder = make_data("threads");
  std::string curves[2];
  for (const int threads : {1, 2}) {
    const fs::path out = folder / std::to_string(threads);
    const Ended ended = run("--data '" + folder.string() + "' --out '" + out.string() +
                                "' --quiet --init b_uniform --optimizer sgd" + brief +
                                " --threads " + std::to_string(threads) + " 2>&1",
                            folder);
    curves[threads - 1] = read(out / "curves.csv");
    if (ended.code != 0) FAIL(ended.text);
  }
  CHECK(curves[0] == curves[1]);
}

namespace {

/// Sends SIGINT to the program after some seconds, and gives its exit code.
int interrupt_after(double seconds, const fs::path& folder, const std::string& options,
                    const std::string& output) {
  const fs::path code = folder / "code.txt";
  const std::string command = "{ timeout --preserve-status --signal=INT " +
                              std::to_string(seconds) + ' ' + std::string(FINETUNE_MLP) +
                              " --data '" + folder.string() + "' --out '" +
                              (folder / "out").string() + "' " + options + " 2>&1; echo $? > '" +
                              code.string() + "'; } " + output;
  REQUIRE(std::system(command.c_str()) == 0);
  return std::stoi(read(code));
}

/// The same for a program that makes very many final runs, once it has come to them: after longer
/// and longer, since nobody knows how fast it is here.
int interrupt(const fs::path& folder, const std::string& options, const std::string& output) {
  int code = 0;
  for (int seconds = 2; seconds < 100 && read(folder / "out" / "summary.json").empty();
       seconds *= 2) {
    code = interrupt_after(seconds, folder, options, output);
  }
  return code;
}

}  // namespace

TEST_CASE("an interrupted program leaves what was done, and says that it is not all") {
  const fs::path folder = make_data("interrupt");
  const fs::path text = folder / "printed.txt";
  const std::string many = "--pretrain-epochs 1 --learning-rate 0.001 --steps 20 --seeds 1000";
  CHECK(interrupt(folder, many, "> '" + text.string() + "'") == 130);
  CHECK(test::contains(read(text), "interrupted"));
  const auto summary = nlohmann::json::parse(read(folder / "out" / "summary.json"));
  CHECK(summary.at("interrupted").get<bool>());
  CHECK(summary.at("methods").at(0).at("runs").size() >= 1);
  CHECK(summary.at("methods").at(0).at("runs").size() < 1000);
  CHECK(test::contains(read(folder / "out" / "curves.csv"), "full fine-tuning,"));
}

TEST_CASE("an interrupted program leaves the run that it was in") {
  const fs::path folder = make_data("interrupt_long");
  const std::string one = "--pretrain-epochs 1 --learning-rate 0.001 --steps 1000000 --seeds 1";
  CHECK(interrupt(folder, one, "> /dev/null") == 130);
  const auto summary = nlohmann::json::parse(read(folder / "out" / "summary.json"));
  CHECK(summary.at("methods").at(0).at("runs").at(0).contains("unfinished_after_step"));
  CHECK(test::contains(read(folder / "out" / "curves.csv"), "full fine-tuning,2,0,"));
}

TEST_CASE("an interrupt with nobody left to print to leaves complete files all the same") {
  const fs::path folder = make_data("interrupt_pipe");
  const std::string many = "--pretrain-epochs 1 --learning-rate 0.001 --steps 20 --seeds 1000";
  interrupt(folder, many, "| true");
  CHECK(nlohmann::json::parse(read(folder / "out" / "summary.json")).at("interrupted").get<bool>());
}

TEST_CASE("an interrupt before the first figure leaves earlier results alone") {
  const fs::path folder = make_data("interrupt_early");
  fs::create_directories(folder / "out");
  write(folder / "out" / "summary.json", "{}");
  CHECK(interrupt_after(0.3, folder, "--pretrain-epochs 1000", "> /dev/null") == 130);
  CHECK(read(folder / "out" / "summary.json") == "{}");
}

TEST_CASE("a run that was stopped goes on from where it was stored, bit for bit") {
  const fs::path folder = make_data("kept");
  std::mt19937_64 generator{1};
  finetune::Options options;
  options.steps = 40;
  options.batch = 8;
  Labelled data{test::random_matrix<float>(12, 30, 1), std::vector<int>(30)};
  for (std::size_t i = 0; i < data.labels.size(); ++i) {
    data.labels[i] = static_cast<int>(i % 10);
  }
  const finetune::Problem problem{loraplus::freeze(loraplus::make_mlp<float>(
                                      {12, 9, 9, 10}, loraplus::Activation::relu, generator)),
                                  data, options};
  const Matrix<float> x = test::random_matrix<float>(12, 5, 2);
  for (const auto method : finetune::all_methods) {
    const finetune::Setting setting{method, 1e-2, 3};
    std::vector<double> losses, resumed_losses;
    const auto whole = finetune::train(
        problem, setting,
        [&](const auto& report, const auto& /*network*/) { losses.push_back(report.loss); }, {});

    finetune::KeptRun kept{folder / "run"};
    kept.interval = std::chrono::milliseconds(0);
    kept.notes = [&] { return finetune::Json(resumed_losses); };
    kept.restore = [&](const finetune::Json& notes) {
      resumed_losses = notes.get<std::vector<double>>();
    };
    for (const Index stop : {11, 29}) {
      const auto until_stop = [&](const auto& report, const auto& /*network*/) {
        if (report.step == stop) throw finetune::Interrupted();
        resumed_losses.push_back(report.loss);
      };
      CHECK_THROWS_AS(finetune::train(problem, setting, until_stop, kept), finetune::Interrupted);
      resumed_losses.clear();
    }
    const auto resumed = finetune::train(
        problem, setting,
        [&](const auto& report, const auto& /*network*/) { resumed_losses.push_back(report.loss); },
        kept);
    CHECK(resumed_losses == losses);
    CHECK(test::same_bits(loraplus::predict(resumed.network, x),
                          loraplus::predict(whole.network, x)));
    fs::remove(folder / "run");
  }
}

TEST_CASE("killed at random moments, a program that resumes ends with the same figures") {
  const fs::path folder = make_data("killed");
  const std::string options = " --data '" + folder.string() + "' --quiet" + brief;
  const auto out_of = [&](const std::string& name) { return (folder / name).string(); };
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(run("--checkpoint --out '" + out_of("whole") + "'" + options, folder).code == 0);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string expected = read(folder / "whole" / "curves.csv");

  std::mt19937_64 generator{9};
  std::string mode = " --checkpoint";
  int kills = 0, gone_on = 0;
  bool done = false;
  while (!done || kills < 10) {
    if (done) {  // sooner than it could be killed: once more from the beginning
      CHECK(read(folder / "killed" / "curves.csv") == expected);
      mode = " --checkpoint";
    }
    // up to about as long as it takes, so that it is killed in all its phases, and comes to its end
    const double patience = loraplus::uniform(generator, 0.02, 1.5 * seconds);
    const std::string command = "timeout -s KILL " + std::to_string(patience) + " " + FINETUNE_MLP +
                                mode + " --out '" + out_of("killed") + "'" + options +
                                " > /dev/null 2>&1";
    done = std::system(command.c_str()) == 0;
    kills += done ? 0 : 1;
    gone_on += mode == " --resume" ? 1 : 0;
    if (fs::exists(folder / "killed" / "checkpoint" / "settings.json")) mode = " --resume";
  }
  CHECK(gone_on > 0);
  CHECK(read(folder / "killed" / "curves.csv") == expected);
  const auto chosen = [&](const std::string& name) {
    auto summary = nlohmann::json::parse(read(folder / name / "summary.json"));
    std::vector<nlohmann::json> trials;
    for (const auto& method : summary.at("methods")) {
      trials.push_back(method.at("trials"));
    }
    return trials;
  };
  CHECK(chosen("killed") == chosen("whole"));
}

TEST_CASE("to resume from nothing, or with other options, is refused by name") {
  const fs::path folder = make_data("resume");
  const std::string options =
      " --quiet --data '" + folder.string() + "' --out '" + (folder / "out").string() + "'" + brief;
  const Ended nothing = run("--resume" + options, folder);
  CHECK(nothing.code == 1);
  CHECK(test::contains(nothing.text, "--resume: there is nothing to go on with in"));
  REQUIRE(run("--checkpoint" + options, folder).code == 0);
  const Ended other = run("--resume --rank 3" + options, folder);
  CHECK(other.code == 1);
  CHECK(test::contains(other.text, "was made with --rank"));
  CHECK(run("--resume" + options, folder).code == 0);
}

TEST_CASE("files in the folder of the checkpoints that the program did not make stay") {
  const fs::path folder = make_data("not_ours");
  const std::string options = " --checkpoint --quiet --data '" + folder.string() + "' --out '" +
                              (folder / "out").string() + "'" + brief;
  const fs::path kept = folder / "out" / "checkpoint";
  fs::create_directories(kept / "sub");
  write(kept / "settings.json", "mine");
  for (const std::string name : {"sub", "thesis.txt", "adapter_model.safetensors"}) {
    if (name != "sub") write(kept / name, "dear");
    const Ended ended = run(options, folder);
    CAPTURE(ended.text);
    CHECK(ended.code == 1);
    CHECK(test::contains(ended.text, "--checkpoint: " + (kept / name).string() + " was not made"));
    CHECK(read(kept / "settings.json") == "mine");
    fs::remove(kept / name);
  }
  fs::remove(kept / "settings.json");
  CHECK(run(options, folder).code == 0);
  CHECK(run(options, folder).code == 0);  // over what it made itself
}

TEST_CASE("without data the program says what to do, and it refuses bad values") {
  const fs::path folder = make_data("refusals");
  const Ended none = run("--data /nonexistent --out '" + folder.string() + "/out'", folder);
  CHECK(none.code == 1);
  CHECK(test::contains(none.text, "--data synthetic"));
  CHECK(test::contains(none.text, "dataset-fashion-mnist"));
  for (const std::string bad : {"--rank 0", "--ratio 0", "--ratio nan", "--ratio -4", "--task flip",
                                "--steps 1.5", "--learning-rate inf", "--target 2", "--unknown"}) {
    CAPTURE(bad);
    const Ended ended = run(bad, folder);
    CHECK(ended.code == 2);
    CHECK(test::contains(ended.text, bad.substr(0, bad.find(' '))));
  }
  const Ended help = run("--help", folder);
  CHECK(help.code == 0);
  for (const char* option :
       {"--task", "--data", "--rank", "--alpha", "--ratio", "--learning-rate", "--init", "--batch",
        "--steps", "--optimizer", "--seed", "--threads", "--out"}) {
    CHECK(test::contains(help.text, option));
  }
}
