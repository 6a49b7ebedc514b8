// What the experiment measures, as plain data.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "options.hpp"

namespace finetune {

enum class Method { full, lora, lora_plus };

inline constexpr std::array<Method, 3> all_methods = {Method::full, Method::lora,
                                                      Method::lora_plus};

/// "full fine-tuning", "LoRA", "LoRA+"
const char* name_of(Method method);

/// One learning rate that was tried, judged by validation images.
struct Trial {
  double learning_rate;
  std::optional<double> accuracy = {};  ///< none until it was made
  bool diverged = false;                ///< the loss became infinite or NaN
};

struct CurvePoint {
  Index step;
  std::optional<double> loss;  ///< mean of the training batches since the point before
  double accuracy;             ///< on the test images
};

/// One final run of a method.
struct Run {
  std::uint64_t seed;
  double accuracy = 0;  ///< on the test images, after the last step
  bool diverged = false;
  double seconds_per_step = 0;  ///< median over its steps
  std::size_t state_bytes = 0;  ///< held by the optimizer
  std::vector<CurvePoint> curve = {};

  /// The first step on the curve, after the start, that is at the target or above.
  std::optional<Index> steps_to(double target) const;
};

struct MethodResult {
  Method method;
  Index parameters = 0;            ///< that are trained
  double learning_rate = 0;        ///< chosen or given; LoRA+: geometric mean of A's and B's
  std::vector<Trial> trials = {};  ///< by rising learning rate; none if it was given
  std::vector<Run> runs = {};
  std::optional<Run> unfinished = {};  ///< the run that an interrupt has ended

  /// Whether the chosen learning rate is the lowest or highest that was tried.
  bool chosen_at_edge() const;

  std::vector<double> accuracies() const;
  /// A value a run; infinite if it did not reach the target.
  std::vector<double> steps_to(double target) const;
  std::vector<double> step_seconds() const;
};

struct Results {
  std::string data_name;
  Index samples = 0;               ///< images to adapt on
  Index validation = 0;            ///< images
  Index test = 0;                  ///< images
  std::vector<Index> widths = {};  ///< of the network's layers, inputs first
  Index parameters = 0;            ///< of the network
  double upright = 0;              ///< test accuracy of the pretrained network on upright images
  double before = 0;               ///< on shifted ones
  double target = 0;
  Index curve_interval = 0;                ///< steps from one accuracy of a curve to the next
  std::vector<MethodResult> methods = {};  ///< empty until the network is pretrained
  double seconds = 0;                      ///< of the whole program
  bool interrupted = false;

  /// Whether there is a figure to report: a learning rate that was tried, or a step of a final run.
  bool has_figures() const;
};

/// @param values not empty; infinite ones are allowed
double median(std::vector<double> values);

/// The learning rates of the two factors in LoRA+, whose ratio is given and whose geometric mean
/// is `mean`.
struct FactorRates {
  double a;
  double b;
};
FactorRates factor_rates(double mean, double ratio);

}  // namespace finetune
