// A network from PyTorch learns from a user's own rows: `personalise --help`.
//
//   personalise model.safetensors rows.csv --out adapter
//
// loads the linear layers of the network, fine-tunes adapters on the rows with LoRA+, tells what
// was learned on rows held back, and saves an adapter that PEFT loads; predict.py shows it there.
#include <CLI/CLI.hpp>
#include <iomanip>
#include <iostream>
#include <loraplus/io/peft.hpp>
#include <loraplus/io/state_dict.hpp>
#include <loraplus/loraplus.hpp>

#include "table.hpp"

namespace {

using namespace loraplus;
using Network = AdaptedMlp<PackedWeight<float>>;

struct Options {
  std::string model;
  std::string rows;
  std::string out = "adapter";
  std::string target;
  std::string activation = "relu";
  long rank = 8;
  double alpha = 16;
  double ratio = 4;
  double learning_rate = 5e-3;
  long steps = 300;
  long batch = 32;
  double held_back = 0.2;
  std::uint64_t seed = 1;
};

const std::map<std::string, Activation> activations = {{"relu", Activation::relu},
                                                       {"gelu", Activation::gelu},
                                                       {"gelu_tanh", Activation::gelu_tanh},
                                                       {"silu", Activation::silu},
                                                       {"tanh", Activation::tanh}};

/// Rows to learn from and rows to be judged by, in a random order.
struct Parts {
  PairedData<float> train;
  PairedData<float> held_back;
};

Parts split(const personalise::Rows& rows, double held_back, std::mt19937_64& generator) {
  const Index count = rows.inputs.cols();
  std::vector<Index> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), Index{0});
  shuffle(std::span(order), generator);
  const auto test = static_cast<Index>(held_back * static_cast<double>(count));
  const auto part = [&](Index first, Index size) {
    const std::vector<Index> chosen(order.begin() + first, order.begin() + first + size);
    // Whole columns; Eigen::all is no name of both Eigen 3.4 and 5.
    return PairedData<float>{rows.inputs(Eigen::seqN(0, rows.inputs.rows()), chosen),
                             rows.targets(Eigen::seqN(0, rows.targets.rows()), chosen)};
  };
  return {part(test, count - test), part(0, test)};
}

/// Targets, which are known to be classes, as such.
LabelledData<float> classes(const PairedData<float>& data) {
  LabelledData<float> labelled{data.inputs, {}};
  for (Index i = 0; i < data.size(); ++i) {
    labelled.labels.push_back(static_cast<int>(data.outputs(0, i)));
  }
  return labelled;
}

double mean_squared_error(const Network& network, const PairedData<float>& data) {
  return (predict(network, data.inputs) - data.outputs).squaredNorm() /
         static_cast<double>(data.size());
}

void print_change(const char* what, Index rows, double before, double after) {
  std::cout << what << " of " << rows << " rows: " << std::setprecision(4) << before << " before, "
            << after << " after\n";
}

/// Trains, and tells how rows held back, or else all rows, are predicted before and after.
template <typename Loss, typename Data, typename Judge>
void learn(Network& network, const Options& options, const Data& train, const Data& held_back,
           const char* what, std::mt19937_64& generator, Judge&& judge) {
  LoraPlus optimizer(AdamW{.learning_rate = options.learning_rate}, {.ratio = options.ratio},
                     network, {.schedule = {.decay = Decay::linear, .total_steps = options.steps}});
  const bool is_held_back = held_back.size() > 0;
  const Data& judged = is_held_back ? held_back : train;
  const double before = judge(network, judged);
  fit<Loss>(network, optimizer, train, {.steps = options.steps, .batch = options.batch}, generator,
            [&](StepReport report) {
              if (report.step % std::max<Index>(1, options.steps / 5) == 0) {
                std::cout << "step " << report.step << ": loss " << report.loss << '\n';
              }
              return true;
            });
  print_change((std::string(what) + (is_held_back ? ", held back" : ", trained on")).c_str(),
               judged.size(), before, judge(network, judged));
}

void run(const Options& options) {
  const Safetensors file(options.model);
  const auto base = load_mlp<float>(file, {.activation = activations.at(options.activation)});
  const auto rows =
      personalise::to_rows(personalise::read_table(options.rows), options.target, options.rows);
  std::cout << options.model << ": " << base.network.layer_names() << '\n'
            << options.rows << ": " << rows.inputs.cols() << " rows; " << rows.filled
            << " missing values filled with the mean of their column, " << rows.left_out
            << " rows without a target left out\n";
  if (rows.inputs.rows() != base.network.in_features()) {
    throw personalise::TableError(options.rows + " has " + std::to_string(rows.inputs.rows()) +
                                  " columns beside the target, the network takes " +
                                  std::to_string(base.network.in_features()));
  }
  const Index outputs = base.network.out_features();
  if (outputs > 1) personalise::require_classes(rows, outputs, options.rows);
  std::mt19937_64 generator(options.seed);
  const Parts parts = split(rows, options.held_back, generator);
  Network network =
      adapt(base.network, {.lora = {.rank = options.rank, .alpha = options.alpha}}, generator);
  std::cout << parameter_count(network) << " parameters to train\n";
  if (outputs == 1) {
    learn<MeanSquaredError>(network, options, parts.train, parts.held_back, "mean squared error",
                            generator, mean_squared_error);
  } else {
    learn<SoftmaxCrossEntropy>(
        network, options, classes(parts.train), classes(parts.held_back), "accuracy", generator,
        [](const Network& trained, const auto& data) { return accuracy(trained, data); });
  }
  save_peft(options.out, network, {.base_model = options.model});
  std::cout << "saved to " << options.out << "\nthe first rows are predicted as\n";
  const Index shown = std::min<Index>(3, rows.inputs.cols());
  const Matrix<float> predicted = predict(network, rows.inputs.leftCols(shown).eval());
  for (Index i = 0; i < shown; ++i) {
    std::cout << std::setprecision(6) << predicted.col(i).transpose() << '\n';
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"A network from PyTorch learns from your own rows, and the adapter goes back."};
  app.add_option("model", options.model, "State dictionary, a safetensors file")->required();
  app.add_option("rows", options.rows, "CSV file: a header, then numbers")->required();
  app.add_option("--out", options.out, "Folder for the adapter")->capture_default_str();
  app.add_option("--target", options.target, "Column to be predicted; else the last");
  app.add_option("--activation", options.activation, "After every layer but the last")
      ->check(CLI::IsMember(activations))
      ->capture_default_str();
  app.add_option("--rank", options.rank, "Rank r")
      ->check(CLI::Range(1L, 100000L))
      ->capture_default_str();
  app.add_option("--alpha", options.alpha, "alpha; the adapter is scaled by alpha / r")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--ratio", options.ratio, "LoRA+: the rate of B over that of A")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--learning-rate", options.learning_rate, "Rate of A")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--steps", options.steps, "Training steps")
      ->check(CLI::Range(1L, 100000000L))
      ->capture_default_str();
  app.add_option("--batch", options.batch, "Rows in a step")
      ->check(CLI::Range(1L, 1000000L))
      ->capture_default_str();
  app.add_option("--held-back", options.held_back, "Share of the rows to judge by")
      ->check(CLI::Range(0.0, 0.9))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Of factors, order and batches")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const std::exception& error) {
    std::cerr << "personalise: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
