// The training step of loraplus as a program that compare.py drives through pipes. It answers each
// line on standard input with one line:
//
//   about                                         compiler, flags, Eigen
//   layer WIDTH N THREADS RATE EPSILON FOLDER     loads a LoRA layer without bias, WIDTH x WIDTH
//   mlp N THREADS RATE EPSILON FOLDER             loads 784-256-256-10, all layers adapted
//   step                                          makes one step
//   run COUNT                                     makes one step more than COUNT: seconds a step,
//                                                 without the first
//   save FOLDER                                   writes the factors and what the last step gave
//
// A file holds a row-major float32 matrix as PyTorch has it: a row is a sample.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <loraplus/loraplus.hpp>
#include <memory>
#include <sstream>

namespace {

using namespace loraplus;
using Folder = std::filesystem::path;

constexpr Index input = 784, hidden = 256, classes = 10;
constexpr LoraOptions lora{.rank = 8, .alpha = 16};

struct Setup {
  Index samples = 0;
  int threads = 1;
  AdamW rule = {};
  Folder folder = {};
};

RowMajorMatrix<float> load(const Folder& file, Index rows, Index cols) {
  RowMajorMatrix<float> matrix(rows, cols);
  const auto bytes = matrix.size() * static_cast<Index>(sizeof(float));
  std::ifstream stream(file, std::ios::binary);
  if (!stream.read(reinterpret_cast<char*>(matrix.data()), bytes)) {
    throw std::runtime_error("cannot read " + file.string());
  }
  return matrix;
}

void save(const Folder& file, const RowMajorMatrix<float>& matrix) {
  const auto bytes = matrix.size() * static_cast<Index>(sizeof(float));
  std::ofstream stream(file, std::ios::binary);
  if (!stream.write(reinterpret_cast<const char*>(matrix.data()), bytes).flush()) {
    throw std::runtime_error("cannot write " + file.string());
  }
}

template <typename Adapted>
void load_factors(const Folder& folder, const std::string& number, Adapted& layer) {
  layer.set_factors(load(folder / ("a" + number), layer.rank(), layer.in_features()),
                    load(folder / ("b" + number), layer.out_features(), layer.rank()));
}

template <typename Adapted>
void save_factors(const Folder& folder, const std::string& number, const Adapted& layer) {
  save(folder / ("a" + number), layer.factors().a());
  save(folder / ("b" + number), layer.factors().b());
}

/// A model with its batch.
class Case {
 public:
  virtual ~Case() = default;
  virtual void step() = 0;
  virtual void save_to(const Folder& folder) const = 0;
};

class LayerCase : public Case {
 public:
  LayerCase(Index width, const Setup& setup)
      : layer_(PackedWeight<float>(load(setup.folder / "w1", width, width), {},
                                   {.copies = Copies::two}),
               lora, generator_),
        optimizer_(setup.rule, layer_),
        cache_(layer_.make_cache(setup.samples)),
        x_(load(setup.folder / "x", setup.samples, width).transpose()),
        dy_(load(setup.folder / "dy", setup.samples, width).transpose()),
        y_(width, setup.samples),
        dx_(width, setup.samples) {
    load_factors(setup.folder, "1", layer_);
  }

  void step() override {
    layer_.forward(x_, y_, cache_, generator_);
    layer_.backward(x_, dy_, dx_, cache_);
    optimizer_.step(layer_);
  }

  void save_to(const Folder& folder) const override {
    save(folder / "y", y_.transpose());
    save(folder / "dx", dx_.transpose());
    save_factors(folder, "1", layer_);
  }

 private:
  std::mt19937_64 generator_{1};
  LoraLinear<PackedWeight<float>> layer_;
  Optimizer<AdamW, float> optimizer_;
  LoraLinear<PackedWeight<float>>::Cache cache_;
  Matrix<float> x_, dy_, y_, dx_;
};

Mlp<Linear<float>> load_network(const Folder& folder) {
  const auto layer = [&](const std::string& number, Index out, Index in) {
    return Linear<float>(load(folder / ("w" + number), out, in),
                         load(folder / ("bias" + number), out, 1));
  };
  return Mlp<Linear<float>>({{"fc1", layer("1", hidden, input), Activation::relu},
                             {"fc2", layer("2", hidden, hidden), Activation::relu},
                             {"fc3", layer("3", classes, hidden)}});
}

std::vector<int> make_labels(Index samples) {
  std::vector<int> labels;
  for (Index i = 0; i < samples; ++i) {
    labels.push_back(static_cast<int>(i % classes));
  }
  return labels;
}

class MlpCase : public Case {
 public:
  explicit MlpCase(const Setup& setup)
      : network_(adapt(load_network(setup.folder), {.lora = lora}, generator_)),
        optimizer_(setup.rule, network_),
        step_(network_, setup.samples),
        x_(load(setup.folder / "x", setup.samples, input).transpose()),
        labels_(make_labels(setup.samples)) {
    int number = 0;
    for_each_adapter(network_, [&](auto& layer) {
      load_factors(setup.folder, std::to_string(++number), layer);
    });
  }

  void step() override { loss_ = step_(network_, optimizer_, x_, labels_, generator_); }

  void save_to(const Folder& folder) const override {
    save(folder / "loss", RowMajorMatrix<float>::Constant(1, 1, static_cast<float>(loss_)));
    int number = 0;
    for_each_adapter(network_, [&](const auto& layer) {
      save_factors(folder, std::to_string(++number), layer);
    });
  }

 private:
  std::mt19937_64 generator_{1};
  AdaptedMlp<PackedWeight<float>> network_;
  Optimizer<AdamW, float> optimizer_;
  TrainingStep<AdaptedMlp<PackedWeight<float>>> step_;
  Matrix<float> x_;
  std::vector<int> labels_;
  double loss_ = 0;
};

Setup read_setup(std::istream& words) {
  Setup setup;
  std::string folder;
  words >> setup.samples >> setup.threads >> setup.rule.learning_rate >> setup.rule.epsilon;
  std::getline(words >> std::ws, folder);
  if (!words) throw std::runtime_error("a setup is incomplete");
  setup.folder = folder;
  Eigen::setNbThreads(setup.threads);
  return setup;
}

double seconds_a_step(Case& made, int count) {
  made.step();  // wakes the threads and fills the caches that the other side has used
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) {
    made.step();
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / count;
}

std::string about() {
  std::ostringstream text;
  text << PEERS_COMPILER << ", " << PEERS_FLAGS << ", Eigen " << EIGEN_WORLD_VERSION << '.'
       << EIGEN_MAJOR_VERSION << '.' << EIGEN_MINOR_VERSION;
  return text.str();
}

/// Does what the line says. @return the answer
std::string obey(const std::string& line, std::unique_ptr<Case>& made) {
  std::istringstream words(line);
  std::string command, folder;
  words >> command;
  if (command == "about") return about();
  if (command == "layer") {
    Index width = 0;
    words >> width;
    made = std::make_unique<LayerCase>(width, read_setup(words));
  } else if (command == "mlp") {
    made = std::make_unique<MlpCase>(read_setup(words));
  } else if (!made) {
    throw std::runtime_error("nothing is loaded for '" + line + "'");
  } else if (command == "step") {
    made->step();
  } else if (command == "run") {
    int count = 0;
    if (!(words >> count) || count < 1) throw std::runtime_error("run needs a count");
    return std::to_string(1e9 * seconds_a_step(*made, count)) + "e-9";
  } else if (command == "save" && std::getline(words >> std::ws, folder)) {
    made->save_to(folder);
  } else {
    throw std::runtime_error("unknown command '" + line + "'");
  }
  return "done";
}

}  // namespace

int main() {
  try {
    std::unique_ptr<Case> made;
    for (std::string line; std::getline(std::cin, line);) {
      std::cout << obey(line, made) << std::endl;
    }
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "loraplus_step: " << error.what() << '\n';
    return 1;
  }
}
