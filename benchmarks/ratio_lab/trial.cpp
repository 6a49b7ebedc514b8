#include "trial.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace lab {
namespace {

using loraplus::ConstMatrixView;
using loraplus::Linear;
using loraplus::LowRank;
using loraplus::MatrixView;

/// Samples that go through the network together: with what is computed of them they stay in the
/// second cache from their forward pass to their backward pass.
Index block_of(Index width) {
  return std::max<Index>(16, 32768 / width);
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.12g", value);
  return text;
}

/// The summed loss of outputs against the targets of the samples from `first` on; writes over them
/// the gradient of that sum divided by `total`.
double loss_of(const Features& part, Index first, Index total, MatrixView<float> outputs) {
  const Index count = outputs.cols();
  Matrix<float> gradient(outputs.rows(), count);
  double loss = 0;
  if (part.labels.empty()) {
    loss = loraplus::MeanSquaredError::evaluate<float>(
        outputs, part.values.middleCols(first, count), gradient);
  } else {
    const auto labels =
        std::span<const int>(part.labels)
            .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    loss = loraplus::SoftmaxCrossEntropy::evaluate<float>(outputs, labels, gradient);
  }
  outputs = gradient * (static_cast<float>(count) / static_cast<float>(total));
  return loss * static_cast<double>(count);
}

/// What is above the adapted layer, forward: logits or predictions. @param active n x count, behind
/// the relu, @param outputs k x count
void apply_head(const Problem& problem, ConstMatrixView<float> active, MatrixView<float> outputs) {
  loraplus::kernels::project<float>(1, problem.head, active, outputs);
  if (problem.head_bias.size() > 0) outputs.colwise() += problem.head_bias;
}

/// Asks for a column that is to be copied soon: it lies anywhere in a matrix larger than the
/// caches.
void prefetch(const Matrix<float>& matrix, Index column) {
  constexpr Index line = 16;
  const float* data = matrix.col(column).data();
  for (Index i = 0; i < matrix.rows(); i += line) {
    __builtin_prefetch(data + i);
  }
}

/// The samples of a step: all of a part, in place, or some that are copied together.
class Batches {
 public:
  Batches(const Features& all, Index batch, std::uint64_t seed)
      : all_(all), sampler_(all.size(), batch == 0 ? all.size() : batch), generator_(seed) {
    if (batch == 0 || batch >= all.size()) return;
    copied_ = Features{Matrix<float>(all.z.rows(), batch), Matrix<float>(all.z.rows(), batch),
                       Matrix<float>(all.values.rows(), all.labels.empty() ? batch : 0),
                       std::vector<int>(all.labels.empty() ? 0 : static_cast<std::size_t>(batch))};
  }

  /// A batch, and how many samples of it count.
  std::pair<const Features&, Index> next() {
    if (!copied_) return {all_, all_.size()};
    const auto indices = sampler_.next(generator_);
    for (std::size_t i = 0; i < indices.size(); ++i) {
      if (i + 1 < indices.size()) {
        prefetch(all_.z, indices[i + 1]);
        prefetch(all_.p0, indices[i + 1]);
      }
      const auto to = static_cast<Index>(i);
      copied_->z.col(to) = all_.z.col(indices[i]);
      copied_->p0.col(to) = all_.p0.col(indices[i]);
      if (all_.labels.empty()) {
        copied_->values.col(to) = all_.values.col(indices[i]);
      } else {
        copied_->labels[i] = all_.labels[static_cast<std::size_t>(indices[i])];
      }
    }
    return {*copied_, static_cast<Index>(indices.size())};
  }

 private:
  const Features& all_;
  std::optional<Features> copied_;
  loraplus::BatchSampler sampler_;
  std::mt19937_64 generator_;
};

/// relu, the frozen head and the loss, forward and backward.
class Tail {
 public:
  explicit Tail(const Problem& problem)
      : problem_(problem),
        gradient_(problem.width(), block_of(problem.width())),
        output_(problem.head.cols(), block_of(problem.width())) {}

  /// @param p n x count, the outputs of the adapted layer for the samples from `first` on;
  /// overwritten by the gradient of the mean loss over `total` samples
  /// @return the summed loss
  double operator()(const Features& batch, Index first, Index total, MatrixView<float> p) {
    auto gradient = gradient_.leftCols(p.cols());
    auto output = output_.leftCols(p.cols());
    p = p.cwiseMax(0.0F);
    apply_head(problem_, p, output);
    const double loss = loss_of(batch, first, total, output);
    gradient.setZero();
    loraplus::kernels::expand<float>(problem_.head, output, gradient);
    for (Index sample = 0; sample < p.cols(); ++sample) {
      float* to = p.col(sample).data();
      const float* from = gradient.col(sample).data();
      for (Index i = 0; i < p.rows(); ++i) {
        to[i] = to[i] > 0 ? from[i] : 0.0F;
      }
    }
    return loss;
  }

 private:
  const Problem& problem_;
  Matrix<float> gradient_;  // n x block, by the outputs of the relu
  Matrix<float> output_;    // k x block
};

/// A low-rank adapter over cached products: a step costs O(r n) a sample.
class CachedAdapter {
 public:
  CachedAdapter(const Problem& problem, const Training& training, std::uint64_t seed)
      : factors_(make(problem, training, seed)),
        h_(factors_.rank(), block_of(problem.width())),
        z_(factors_.rank(), block_of(problem.width())) {}

  /// @param p n x count, of the samples from `first` on
  void forward(const Features& batch, Index first, MatrixView<float> p) {
    auto h = h_.leftCols(p.cols());
    p = batch.p0.middleCols(first, p.cols());
    factors_.project(batch.z.middleCols(first, p.cols()), h);
    loraplus::kernels::expand<float>(factors_.b(), h, p);
  }

  /// Of the samples of the last forward pass.
  void backward(const Features& batch, Index first, ConstMatrixView<float> dp) {
    factors_.backward(batch.z.middleCols(first, dp.cols()), dp, h_.leftCols(dp.cols()),
                      z_.leftCols(dp.cols()));
  }

  LowRank<float>& parameters() { return factors_; }

 private:
  static LowRank<float> make(const Problem& problem, const Training& training, std::uint64_t seed) {
    std::mt19937_64 generator(seed);
    return {problem.width(), problem.width(),
            loraplus::LoraOptions{.rank = training.rank,
                                  .alpha = training.scaling * static_cast<double>(training.rank),
                                  .initialization = training.b_random
                                                        ? loraplus::Initialization::b_uniform
                                                        : loraplus::Initialization::a_uniform,
                                  .init_scale = std::exp2(training.init_log2)},
            generator};
  }

  LowRank<float> factors_;
  Matrix<float> h_;  // r x block
  Matrix<float> z_;  // r x block
};

/// The layer trained in full.
class FullLayer {
 public:
  explicit FullLayer(const Problem& problem) : layer_(*problem.layer) {}

  void forward(const Features& batch, Index first, MatrixView<float> p) {
    layer_.forward(batch.z.middleCols(first, p.cols()), p, cache_);
  }

  void backward(const Features& batch, Index first, ConstMatrixView<float> dp) {
    layer_.backward(batch.z.middleCols(first, dp.cols()), dp, cache_);
  }

  Linear<float>& parameters() { return layer_; }

 private:
  Linear<float> layer_;
  Linear<float>::Cache cache_;
};

/// Both passes over the samples of a batch, block by block: the gradients of the mean loss.
/// @return the mean loss
template <typename Adapted>
double add_gradients(const Features& batch, Index samples, Adapted& adapted, Tail& tail,
                     Matrix<float>& p) {
  double loss = 0;
  for (Index first = 0; first < samples; first += p.cols()) {
    const MatrixView<float> view = p.leftCols(std::min(p.cols(), samples - first));
    adapted.forward(batch, first, view);
    loss += tail(batch, first, samples, view);
    adapted.backward(batch, first, view);
  }
  return loss / static_cast<double>(samples);
}

/// @param update what an optimizer does with the gradients of the adapted layer
template <typename Adapted>
Outcome train(const Problem& problem, const Trial& trial, Adapted& adapted,
              const std::function<void()>& update) {
  Batches batches(problem.train, trial.training.batch, 2 * trial.seed + 1);
  Tail tail(problem);
  Matrix<float> p(problem.width(), block_of(problem.width()));  // n x block
  Evaluator evaluator(problem);
  const double cap = divergence_factor * problem.loss_before;
  const auto capped = [&](double loss) { return std::isfinite(loss) ? std::min(loss, cap) : cap; };
  Outcome outcome;
  for (Index step = 1; step <= trial.training.steps; ++step) {
    const auto [batch, samples] = batches.next();
    if (!std::isfinite(add_gradients(batch, samples, adapted, tail, p))) {
      outcome.diverged = true;
      break;
    }
    update();
    if (trial.curve_interval > 0 && step % trial.curve_interval == 0) {
      outcome.curve.push_back(
          capped(evaluator.loss(adapted.parameters(), problem.validation, curve_samples)));
    }
  }
  if (trial.curve_interval > 0) {
    const auto points = trial.training.steps / trial.curve_interval;
    outcome.curve.resize(static_cast<std::size_t>(points), cap);  // those after a divergence
  }
  const Features& judged = trial.judge == Judge::validation ? problem.validation : problem.test;
  outcome.loss =
      outcome.diverged ? cap : capped(evaluator.loss(adapted.parameters(), judged, judged.size()));
  outcome.diverged = outcome.loss == cap;
  return outcome;
}

/// The update rule with its rate, as a function that makes an optimizer's step of it.
/// @param make from a rule to an optimizer for `model`
template <typename Model, typename Make>
std::function<void()> make_update(Rule rule, double rate, Model& model, Make&& make) {
  const auto step_of = [&](const auto& chosen) -> std::function<void()> {
    auto optimizer = std::make_shared<decltype(make(chosen))>(make(chosen));
    return [optimizer, &model] { optimizer->step(model); };
  };
  switch (rule) {
    case Rule::adam:
      return step_of(loraplus::Adam{.learning_rate = rate, .epsilon = 0});
    case Rule::adamw:
      return step_of(loraplus::AdamW{.learning_rate = rate, .epsilon = 0});
    case Rule::sgd:
      return step_of(loraplus::Sgd{.learning_rate = rate});
    case Rule::momentum:
      return step_of(loraplus::Sgd{.learning_rate = rate, .momentum = 0.9});
  }
  throw std::logic_error("unknown rule");
}

std::function<void()> make_factor_update(const Trial& trial, LowRank<float>& factors) {
  const Rule rule = trial.training.rule;
  const double mean = trial.rates.mean();
  switch (trial.training.method) {
    case Method::lora_fa:
      return make_update(rule, mean, factors, [&](const auto& chosen) {
        return loraplus::Optimizer(loraplus::LoraFa{chosen}, factors);
      });
    case Method::riemannian:
      return make_update(rule, mean, factors, [&](const auto& chosen) {
        return loraplus::Optimizer(loraplus::Riemannian{chosen}, factors);
      });
    default:
      return make_update(rule, trial.rates.a(), factors, [&](const auto& chosen) {
        return loraplus::LoraPlus(chosen, {.ratio = trial.rates.ratio()}, factors);
      });
  }
}

}  // namespace

const char* name_of(Method method) {
  switch (method) {
    case Method::lora:
      return "lora";
    case Method::lora_fa:
      return "lora-fa";
    case Method::riemannian:
      return "riemannian";
    case Method::full:
      return "full";
  }
  return "";
}

const char* name_of(Rule rule) {
  switch (rule) {
    case Rule::adam:
      return "adam";
    case Rule::adamw:
      return "adamw";
    case Rule::sgd:
      return "sgd";
    case Rule::momentum:
      return "momentum";
  }
  return "";
}

std::string Training::text() const {
  std::string made = std::string(name_of(method)) + ' ' + name_of(rule);
  if (method != Method::full) {
    made += std::string(b_random ? " init2" : " init1") + " r=" + std::to_string(rank) +
            " s=" + number(scaling);
    if (init_log2 != 0) made += " init*2^" + std::to_string(init_log2);
  }
  return made + " steps=" + std::to_string(steps) + " batch=" + std::to_string(batch);
}

std::string Trial::key() const {
  std::string made = problem.text() + " | " + training.text() + " | g=2^" + number(rates.g_log2) +
                     " ratio=2^" + std::to_string(rates.ratio_log2) +
                     " seed=" + std::to_string(seed);
  if (judge == Judge::test) made += " test";
  if (curve_interval > 0) made += " curve=" + std::to_string(curve_interval);
  return made;
}

Outcome run_trial(const Problem& problem, const Trial& trial) {
  if (trial.training.method == Method::full) {
    FullLayer layer(problem);
    auto& parameters = layer.parameters();
    return train(
        problem, trial, layer,
        make_update(trial.training.rule, trial.rates.mean(), parameters,
                    [&](const auto& rule) { return loraplus::Optimizer(rule, parameters); }));
  }
  CachedAdapter adapter(problem, trial.training, 2 * trial.seed);
  return train(problem, trial, adapter, make_factor_update(trial, adapter.parameters()));
}

Job make_job(Problems& problems, const Trial& trial) {
  return {trial.key(), [&problems, trial] {
            const Outcome outcome = run_trial(*problems.get(trial.problem), trial);
            Json json{{"loss", outcome.loss}, {"diverged", outcome.diverged}};
            if (!outcome.curve.empty()) json["curve"] = outcome.curve;
            return json;
          }};
}

Outcome read_outcome(const Json& json) {
  return {
      json.at("loss"), json.at("diverged"),
      json.contains("curve") ? json["curve"].get<std::vector<double>>() : std::vector<double>{}};
}

double multiply_adds(const Problem& problem, const Training& training) {
  const auto n = static_cast<double>(problem.width());
  const auto r = static_cast<double>(training.rank);
  const auto k = static_cast<double>(problem.head.cols());
  const auto samples =
      static_cast<double>(training.batch == 0 ? problem.train.size() : training.batch);
  const double layer = training.method == Method::full ? 2 * n * n : 5 * r * n;
  return static_cast<double>(training.steps) * samples * (layer + 2 * k * n);
}

Evaluator::Evaluator(const Problem& problem)
    : problem_(problem),
      p_(problem.width(), block_of(problem.width())),
      output_(problem.head.cols(), block_of(problem.width())) {}

double Evaluator::loss_over(const Features& part, Index samples,
                            const std::function<void(Index, MatrixView<float>)>& fill) {
  double sum = 0;
  samples = std::min(samples, part.size());
  for (Index first = 0; first < samples; first += p_.cols()) {
    const Index count = std::min(p_.cols(), samples - first);
    auto p = p_.leftCols(count);
    auto output = output_.leftCols(count);
    fill(first, p);
    p = p.cwiseMax(0.0F);
    apply_head(problem_, p, output);
    sum += loss_of(part, first, samples, output);
  }
  return sum / static_cast<double>(samples);
}

double Evaluator::loss(const LowRank<float>& factors, const Features& part, Index samples) {
  h_.resize(factors.rank(), p_.cols());
  return loss_over(part, samples, [&](Index first, MatrixView<float> p) {
    auto h = h_.leftCols(p.cols());
    p = part.p0.middleCols(first, p.cols());
    factors.project(part.z.middleCols(first, p.cols()), h);
    loraplus::kernels::expand<float>(factors.b(), h, p);
  });
}

double Evaluator::loss(const Linear<float>& layer, const Features& part, Index samples) {
  Linear<float>::Cache cache;
  return loss_over(part, samples, [&](Index first, MatrixView<float> p) {
    layer.forward(part.z.middleCols(first, p.cols()), p, cache);
  });
}

}  // namespace lab
