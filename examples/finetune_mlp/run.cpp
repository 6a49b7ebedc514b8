#include "run.hpp"

#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/optim/sgd.hpp>

#include "tasks.hpp"

namespace finetune {
namespace {

/// Calls `use` with the optimizer of a rule that is still to be given its learning rate.
template <typename Rule, typename Use>
void with_rule(Rule rule, const Options& options, const Setting& setting, Network& network,
               Use& use) {
  const loraplus::OptimizerOptions common = {
      .schedule = {.decay = loraplus::Decay::linear, .total_steps = options.steps},
      .clip_norm = clip_norm};
  if (setting.method == Method::lora_plus) {
    rule.learning_rate = factor_rates(setting.learning_rate, options.ratio).a;
    loraplus::LoraPlus optimizer(rule, {.ratio = options.ratio}, network, common);
    use(optimizer);
  } else {
    rule.learning_rate = setting.learning_rate;
    loraplus::Optimizer optimizer(rule, network, common);
    use(optimizer);
  }
}

template <typename Use>
void with_optimizer(const Options& options, const Setting& setting, Network& network, Use use) {
  switch (options.optimizer) {
    case Rule::sgd:
      return with_rule(loraplus::Sgd{.momentum = 0.9, .weight_decay = 0}, options, setting, network,
                       use);
    case Rule::adam:
      return with_rule(loraplus::Adam{.weight_decay = 0}, options, setting, network, use);
    case Rule::adamw:
      return with_rule(loraplus::AdamW{.weight_decay = adamw_weight_decay}, options, setting,
                       network, use);
  }
}

}  // namespace

std::mt19937_64 make_generator(std::uint64_t seed, Stream stream) {
  std::seed_seq words{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32U),
                      static_cast<std::uint32_t>(stream)};
  return std::mt19937_64(words);
}

Network make_network(const Problem& problem, Method method, std::uint64_t seed) {
  const std::vector<std::string> layers = layers_to_adapt(problem.options.task);
  if (method == Method::full) return loraplus::thaw(problem.network, layers);
  const loraplus::LoraOptions lora{.rank = problem.options.rank,
                                   .alpha = problem.options.alpha,
                                   .initialization = problem.options.init};
  auto generator = make_generator(seed, Stream::adapters);
  return loraplus::adapt(problem.network, {.lora = lora, .targets = layers}, generator);
}

Trained train(const Problem& problem, const Setting& setting,
              const std::function<void(const loraplus::StepReport&, const Network&)>& after_step,
              const KeptRun& kept) {
  Trained trained{make_network(problem, setting.method, setting.seed)};
  Network& network = trained.network;
  const loraplus::FitOptions fit_options{.steps = problem.options.steps,
                                         .batch = problem.options.batch};
  auto generator = make_generator(setting.seed, Stream::batches);
  with_optimizer(problem.options, setting, network, [&](auto& optimizer) {
    trained.state_bytes = optimizer.state_bytes();
    try {
      fit_kept(network, optimizer, problem.data, fit_options, generator, kept,
               [&](const loraplus::StepReport& report) { after_step(report, network); });
    } catch (const loraplus::NonFiniteError&) {
      trained.diverged = true;
    }
  });
  return trained;
}

}  // namespace finetune
