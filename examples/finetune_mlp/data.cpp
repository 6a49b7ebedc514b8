#include "data.hpp"

#include <cmath>
#include <filesystem>
#include <loraplus/nn/mlp.hpp>
#include <numbers>

#include "idx.hpp"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using loraplus::Matrix;

/// The file of this name in the folder, gzipped or not.
fs::path find_file(const fs::path& folder, const std::string& name) {
  for (const char* ending : {".gz", ""}) {
    const fs::path file = folder / (name + ending);
    if (fs::exists(file)) return file;
  }
  throw NoData("there is no " + name + ".gz, nor " + name + ", in " + folder.string() +
               "\n\n"
               "  Debian and Ubuntu have Fashion-MNIST:  apt install dataset-fashion-mnist\n"
               "  IDX files elsewhere, gzipped or not:   --data DIR\n"
               "  a built-in task that needs no files:   --data synthetic");
}

/// Images with their labels, as the files have them.
struct Source {
  IdxImages images;
  std::vector<std::uint8_t> labels;

  Index size() const { return images.pixels.cols(); }

  Labelled range(Index first, Index count) const {
    const auto begin = labels.begin() + first;
    return {images.pixels.middleCols(first, count).cast<float>() / 255.0F,
            std::vector<int>(begin, begin + count)};
  }
};

Source read_source(const fs::path& folder, const std::string& prefix) {
  const fs::path images_file = find_file(folder, prefix + "-images-idx3-ubyte");
  const fs::path labels_file = find_file(folder, prefix + "-labels-idx1-ubyte");
  Source source{read_idx_images(images_file), read_idx_labels(labels_file)};
  const auto labels = static_cast<Index>(source.labels.size());
  if (labels != source.size()) {
    throw IdxError(labels_file.string() + " has " + std::to_string(labels) + " labels, but " +
                   images_file.string() + " has " + std::to_string(source.size()) + " images");
  }
  for (std::size_t i = 0; i < source.labels.size(); ++i) {
    if (source.labels[i] >= classes) {
      throw IdxError(labels_file.string() + ": label " + std::to_string(source.labels[i]) +
                     " of image " + std::to_string(i) + " is not in 0 .. " +
                     std::to_string(classes - 1));
    }
  }
  return source;
}

Splits load_idx(const fs::path& folder) {
  const Source train = read_source(folder, "train");
  const Source test = read_source(folder, "t10k");
  const Index side = train.images.rows;
  if (train.images.cols != side || test.images.rows != side || test.images.cols != side) {
    throw IdxError("the images in " + folder.string() + " are not square, or not of one size");
  }
  const Index pretrain = train.size() * 9 / 12;
  const Index pool = train.size() * 2 / 12;
  const Index validation = train.size() - pretrain - pool;
  if (pool == 0) throw IdxError(folder.string() + " has too few images to be split in three");
  const bool standard = folder == fs::path(Options{}.data);
  return {standard ? "Fashion-MNIST" : folder.string(),
          side,
          train.range(0, pretrain),
          train.range(pretrain, pool),
          train.range(pretrain + pool, validation),
          test.range(0, test.size())};
}

/// A task made up by a random teacher: a few hidden numbers mix smooth waves to an image, and a
/// random network tells its class from the same numbers. Images that are smooth can be turned and
/// inverted like photographs.
class Teacher {
 public:
  explicit Teacher(std::uint64_t seed)
      : generator_(seed),
        waves_(side * side, hidden),
        network_(loraplus::make_mlp<float>({hidden, 64, classes}, loraplus::Activation::tanh,
                                           generator_)) {
    for (Index wave = 0; wave < hidden; ++wave) {
      const double right = loraplus::uniform(generator_, -2, 2);  // periods across the image
      const double down = loraplus::uniform(generator_, -2, 2);
      const double phase = loraplus::uniform(generator_, 0, 1);
      for (Index pixel = 0; pixel < side * side; ++pixel) {
        const auto row = static_cast<double>(pixel / side) / side;
        const auto col = static_cast<double>(pixel % side) / side;
        waves_(pixel, wave) =
            static_cast<float>(std::cos(2 * std::numbers::pi * (down * row + right * col + phase)));
      }
    }
  }

  Labelled draw(Index count) {
    Matrix<float> u(hidden, count);
    loraplus::fill_normal(u, generator_, 1);
    const Matrix<float> logits = loraplus::predict(network_, u);  // classes x count
    Labelled data{Matrix<float>(side * side, count), {}};
    data.inputs.noalias() = waves_ * (u * contrast);
    data.inputs = (data.inputs.array().tanh() + 1) / 2;
    for (Index i = 0; i < count; ++i) {
      Index label = 0;
      logits.col(i).maxCoeff(&label);
      data.labels.push_back(static_cast<int>(label));
    }
    return data;
  }

  static constexpr Index side = 28;

 private:
  static constexpr Index hidden = 12;
  static constexpr float contrast = 0.5F;

  std::mt19937_64 generator_;
  Matrix<float> waves_;  // pixels x hidden
  loraplus::Mlp<loraplus::Linear<float>> network_;
};

Splits make_synthetic(std::uint64_t seed) {
  Teacher teacher(seed);
  return {"synthetic images",  Teacher::side,      teacher.draw(45000),
          teacher.draw(10000), teacher.draw(5000), teacher.draw(10000)};
}

}  // namespace

Splits load(const Options& options) {
  return options.synthetic() ? make_synthetic(options.seed) : load_idx(options.data);
}

}  // namespace finetune
