#include "problem.hpp"

#include <cmath>

#include "trial.hpp"

namespace lab {
namespace {

using loraplus::Activation;
using loraplus::Linear;

constexpr Index inputs = 4;

/// Normal coefficients of this standard deviation.
Matrix<float> normal_matrix(Index rows, Index cols, double deviation, std::mt19937_64& generator) {
  Matrix<float> matrix(rows, cols);
  loraplus::fill_normal(matrix, generator, deviation);
  return matrix;
}

/// The function to be learned, of mean 0 and variance 1 over its samples: a random network, the
/// same for every width and every seed of the frozen one.
class Teacher {
 public:
  Teacher() : generator_(20240219) {
    network_ = std::make_unique<loraplus::Mlp<Linear<float>>>(
        loraplus::make_mlp<float>({inputs, 32, 1}, Activation::tanh, generator_));
    for (auto& stage : network_->stages()) {  // wide enough to be no straight line
      stage.layer = Linear<float>(2 * stage.layer.weight(), 0 * stage.layer.bias());
    }
  }

  /// d x samples, and 1 x samples.
  std::pair<Matrix<float>, Matrix<float>> draw(Index samples) {
    const Matrix<float> x = normal_matrix(inputs, samples, 1, generator_);
    Matrix<float> y = loraplus::predict(*network_, x);
    if (scale_ == 0) {
      mean_ = y.mean();
      scale_ = 1 / std::sqrt((y.array() - mean_).square().mean());
    }
    y = (y.array() - mean_) * scale_;
    return {x, y};
  }

 private:
  std::mt19937_64 generator_;
  std::unique_ptr<loraplus::Mlp<Linear<float>>> network_;
  float mean_ = 0;
  float scale_ = 0;  // 0: not known yet
};

}  // namespace

std::string ProblemKey::network_text() const {
  std::string made = "n=" + std::to_string(width) + " net=" + std::to_string(seed);
  if (!mup) made += " standard";
  if (pretrain_steps != ProblemKey{}.pretrain_steps) {
    made += " pretrained=" + std::to_string(pretrain_steps);
  }
  return made;
}

std::string ProblemKey::text() const {
  return task + ' ' + network_text();
}

std::shared_ptr<const Problem> Problems::get(const ProblemKey& key) {
  return problems_.get(key.text(), [&] {
    if (key.task == "teacher") return make_teacher_problem(key);
    const auto splits = images();
    const auto network = networks_.get(key.network_text(), [&] { return pretrain(key, *splits); });
    return make_image_problem(key, *network, *splits);
  });
}

std::shared_ptr<const finetune::Splits> Problems::images() {
  return splits_.get("", [&] {
    finetune::Options options;
    options.data = data_;
    return finetune::load(options);
  });
}

void Problems::clear() {
  problems_.clear();
}

Features make_features(const Linear<float>& first, const Linear<float>& layer,
                       const Matrix<float>& x) {
  const auto apply = [](const Linear<float>& map, const Matrix<float>& in) {
    Matrix<float> out(map.out_features(), in.cols());
    auto cache = map.make_cache(in.cols());
    map.forward(in, out, cache);
    return out;
  };
  Features made;
  made.z = apply(first, x).cwiseMax(0.0F);
  made.p0 = apply(layer, made.z);
  return made;
}

void judge_before(Problem& problem) {
  const loraplus::LoraOptions none{.rank = 1};
  std::mt19937_64 generator{1};
  const Index n = problem.width();
  const loraplus::LowRank<float> untrained(n, n, none, generator);  // B = 0
  problem.loss_before =
      Evaluator(problem).loss(untrained, problem.validation, problem.validation.size());
}

Problem make_teacher_problem(const ProblemKey& key) {
  const auto n = static_cast<double>(key.width);
  std::mt19937_64 generator{key.seed};
  const Linear<float> first(
      normal_matrix(key.width, inputs, 1 / std::sqrt(double{inputs}), generator));
  auto layer = std::make_shared<const Linear<float>>(
      normal_matrix(key.width, key.width, std::sqrt(2 / n), generator));
  Matrix<float> head = normal_matrix(key.width, 1, 1 / n, generator);
  Teacher teacher;
  const auto part = [&](Index samples) {
    const auto [x, y] = teacher.draw(samples);
    Features features = make_features(first, *layer, x);
    features.values = y;
    return features;
  };
  constexpr Index to_train = 256;
  constexpr Index to_judge = 1024;
  Features train = part(to_train);
  Features validation = part(to_judge);
  Features test = part(to_judge);
  Problem problem{std::move(train), std::move(validation), std::move(test), layer, std::move(head)};
  judge_before(problem);
  return problem;
}

}  // namespace lab
