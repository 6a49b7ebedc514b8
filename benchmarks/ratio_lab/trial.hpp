#pragma once

#include <functional>

#include "problem.hpp"
#include "runner.hpp"

namespace lab {

enum class Method {
  lora,        ///< LoRA and LoRA+, which is LoRA with a ratio
  lora_fa,     ///< A frozen
  riemannian,  ///< preconditioned gradients, one rate
  full,        ///< W and b themselves
};
enum class Rule { adam, adamw, sgd, momentum };
enum class Judge { validation, test };

const char* name_of(Method method);
const char* name_of(Rule rule);

/// Learning rates on a grid of powers: the mean g = 2^(g_halves / 2) and the ratio
/// lambda = 2^ratio_log2, eta_A = g / sqrt(lambda), eta_B = g sqrt(lambda). Integers, so that a
/// rate has one name; a ratio of 4^k is exact.
struct Rates {
  double g_log2 = -8;  ///< in steps of 1/2, or finer
  int ratio_log2 = 0;

  double mean() const { return std::exp2(g_log2); }
  double ratio() const { return std::exp2(ratio_log2); }
  double a() const { return std::exp2(g_log2 - ratio_log2 / 2.0); }
  double b() const { return std::exp2(g_log2 + ratio_log2 / 2.0); }
};

/// How a layer is trained. What is not told here is fixed: no weight decay, a constant rate, Adam
/// with beta 0.9 and 0.999 and epsilon 0.
struct Training {
  Method method = Method::lora;
  Rule rule = Rule::adam;
  bool b_random = false;  ///< Init[2], A = 0; else Init[1], B = 0
  Index rank = 4;
  double scaling = 1;  ///< s
  int init_log2 = 0;   ///< the random factor is drawn 2^init_log2 times as large
  Index steps = 100;
  Index batch = 0;  ///< 0: all samples at once

  std::string text() const;
};

struct Trial {
  ProblemKey problem = {};
  Training training = {};
  Rates rates = {};
  std::uint64_t seed = 1;  ///< of the factors and the batches
  Judge judge = Judge::validation;
  Index curve_interval = 0;  ///< steps from one point of the validation curve to the next; 0: none

  /// All that decides the result.
  std::string key() const;
};

/// Samples of the validation set, its first ones, that a point of a curve is the loss of.
inline constexpr Index curve_samples = 1024;

/// A loss above this many times that before training counts as this: the trial diverged.
inline constexpr double divergence_factor = 10;

struct Outcome {
  double loss = 0;  ///< on the judging set after the last step, capped
  bool diverged = false;
  std::vector<double> curve = {};  ///< validation losses, capped
};

/// Trains and judges. Depends on the trial alone, bit for bit, on one kind of machine.
Outcome run_trial(const Problem& problem, const Trial& trial);

Job make_job(Problems& problems, const Trial& trial);
Outcome read_outcome(const Json& json);

/// Multiply-adds of the products of a trial's steps.
double multiply_adds(const Problem& problem, const Training& training);

/// The part of the network above the adapted layer, and its loss.
class Evaluator {
 public:
  explicit Evaluator(const Problem& problem);

  /// The mean loss over the first samples of a part.
  double loss(const loraplus::LowRank<float>& factors, const Features& part, Index samples);
  double loss(const loraplus::Linear<float>& layer, const Features& part, Index samples);

 private:
  /// @param fill writes the outputs of the layer, n x count, of the samples first ... + count
  double loss_over(const Features& part, Index samples,
                   const std::function<void(Index, loraplus::MatrixView<float>)>& fill);

  const Problem& problem_;
  Matrix<float> p_;       // n x block
  Matrix<float> h_;       // r x block
  Matrix<float> output_;  // k x block
};

}  // namespace lab
