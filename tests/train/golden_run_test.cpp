// Whole training runs against PyTorch: adapters, network, loss, LoRA+, clipping and schedule
// together. The runs are those of golden/generate.py.
#include <loraplus/nn/adapt.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/train/training_step.hpp>

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/matrices.hpp"

using loraplus::Activation;
using loraplus::AdamW;
using loraplus::AdaptedMlp;
using loraplus::BiasMode;
using loraplus::Decay;
using loraplus::Index;
using loraplus::Linear;
using loraplus::LoraLinear;
using loraplus::LoraPlus;
using loraplus::Matrix;
using loraplus::Mlp;
using loraplus::OptimizerOptions;
using loraplus::PackedWeight;
using loraplus::TrainingStep;

namespace {

constexpr Index widths[] = {12, 16, 8, 5};
constexpr Index rank = 3;
constexpr double alpha = 6;
constexpr Index batch = 7;
constexpr Index steps = 50;

struct Run {
  std::string file;
  double b_scale;
  AdamW rule;
  double ratio;
  BiasMode bias = BiasMode::none;
  OptimizerOptions options = {};
};

const Run run_b_zero{.file = "run_b_zero.txt",
                     .b_scale = 0,
                     .rule = {.learning_rate = 1e-2, .weight_decay = 0.1},
                     .ratio = 8};
const Run run_b_random{.file = "run_b_random.txt",
                       .b_scale = 0.5,
                       .rule = {.learning_rate = 1e-2, .weight_decay = 0.1},
                       .ratio = 8};
const Run bias_clip_schedule{
    .file = "run_bias_clip_schedule.txt",
    .b_scale = 0.5,
    .rule = {.learning_rate = 1e-2, .weight_decay = 0.1},
    .ratio = 4,
    .bias = BiasMode::lora_only,
    .options = {.schedule = {.decay = Decay::linear, .warmup_steps = 5, .total_steps = 40},
                .clip_norm = 0.6}};

template <typename Scalar>
using Network = AdaptedMlp<PackedWeight<Scalar>>;

/// The network before the first step: fc1 and fc2 adapted, fc3 frozen.
template <typename Scalar>
Network<Scalar> make_network(const Run& run) {
  std::vector<typename Mlp<Linear<Scalar>>::Stage> stages;
  for (Index layer = 1; layer <= 3; ++layer) {
    const Index in = widths[layer - 1];
    const Index out = widths[layer];
    const auto stream = static_cast<std::uint32_t>(10 * layer);
    const double bound = 2 / std::sqrt(static_cast<double>(in));
    stages.push_back({"fc" + std::to_string(layer),
                      Linear<Scalar>(test::noise_matrix<Scalar>(stream, out, in, bound),
                                     test::noise_matrix<Scalar>(stream + 1, out, 1, bound)),
                      layer < 3 ? Activation::relu : Activation::identity});
  }
  std::mt19937_64 unused;  // the factors it draws are replaced
  auto network =
      adapt(Mlp<Linear<Scalar>>(std::move(stages)),
            {.lora = {.rank = rank, .alpha = alpha, .bias = run.bias}, .targets = {"fc1", "fc2"}},
            unused);
  std::uint32_t stream = 12;
  for_each_adapter(network, [&](LoraLinear<PackedWeight<Scalar>>& layer) {
    const double bound = 1 / std::sqrt(static_cast<double>(layer.in_features()));
    layer.set_factors(
        test::noise_matrix<Scalar>(stream, rank, layer.in_features(), bound),
        test::noise_matrix<Scalar>(stream + 1, layer.out_features(), rank, run.b_scale));
    stream += 10;
  });
  return network;
}

/// Trains over all steps and compares with what PyTorch got in the same precision.
template <typename Scalar>
void check_run(const Run& run) {
  const test::Golden golden(run.file);
  const std::string precision = "." + test::precision_name<Scalar>();
  const double tolerance = sizeof(Scalar) == 8 ? 1e-11 : 1e-5;

  auto network = make_network<Scalar>(run);
  LoraPlus optimizer(run.rule, {.ratio = run.ratio}, network, run.options);
  TrainingStep<Network<Scalar>> train(network, batch);
  std::mt19937_64 unused;  // there is no dropout
  const auto& losses = golden("loss" + precision);
  REQUIRE(losses.size() == steps);
  for (Index step = 0; step < steps; ++step) {
    const Matrix<double> x =
        test::noise_matrix<double>(static_cast<std::uint32_t>(100 + step), batch, widths[0])
            .transpose();
    std::vector<int> labels(batch);
    for (Index sample = 0; sample < batch; ++sample) {
      x.col(sample).head(widths[3]).maxCoeff(&labels[static_cast<std::size_t>(sample)]);
    }
    const double loss =
        train(network, optimizer, Matrix<Scalar>(x.cast<Scalar>()), std::span(labels), unused);
    INFO("step " << step);
    CHECK(std::abs(loss - losses(step)) < tolerance * losses(step));
  }

  Index compared = 0;
  network.visit_parameters([&](const loraplus::Parameter<Scalar>& parameter) {
    const std::string name = parameter.name.str();
    // As written on paper, whichever way it is stored.
    const Matrix<Scalar> value =
        parameter.is_row_major
            ? Matrix<Scalar>(parameter.value.reshaped(parameter.cols, parameter.rows).transpose())
            : Matrix<Scalar>(parameter.value.reshaped(parameter.rows, parameter.cols));
    const auto& expected = golden(name + precision);
    REQUIRE(value.rows() == expected.rows());
    REQUIRE(value.cols() == expected.cols());
    INFO(name);
    CHECK(test::relative_distance(value, expected) < tolerance);
    ++compared;
  });
  CHECK(compared == (run.bias == BiasMode::none ? 4 : 6));
}

}  // namespace

TEMPLATE_TEST_CASE("a run from B = 0 agrees with PyTorch", "", float, double) {
  check_run<TestType>(run_b_zero);
}

TEMPLATE_TEST_CASE("a run from random A and B agrees with PyTorch", "", float, double) {
  check_run<TestType>(run_b_random);
}

TEMPLATE_TEST_CASE("a run with biases, clipping and a schedule agrees with PyTorch", "", float,
                   double) {
  check_run<TestType>(bias_clip_schedule);
}
