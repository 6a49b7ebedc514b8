// What a trial learns: one adapted n x n layer, everything else frozen and computed once.
//
//     x -> z = relu(Win x) -> y = (W + s B A) z + b -> relu -> head
//          [cached: z]        [cached: W z + b]
#pragma once

#include <loraplus/loraplus.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "finetune_mlp/data.hpp"

namespace lab {

using loraplus::Index;
using loraplus::Matrix;

/// The samples of one part with what the frozen layers make of them.
struct Features {
  Matrix<float> z;               // n x samples: the inputs of the adapted layer
  Matrix<float> p0;              // n x samples: its frozen outputs, W z + b
  Matrix<float> values;          // k x samples: the targets of a regression
  std::vector<int> labels = {};  // the targets of a classification, empty for a regression

  Index size() const { return z.cols(); }
};

struct Problem {
  Features train;
  Features validation;
  Features test;
  std::shared_ptr<const loraplus::Linear<float>> layer;  // W (n x n) and b, for full fine-tuning
  Matrix<float> head;                                    // n x k: its transpose, thin as a factor
  loraplus::Vector<float> head_bias = {};                // k, or empty
  double loss_before = 0;                                // on the validation set, with W alone

  Index width() const { return train.z.rows(); }
};

/// Which problem: every coefficient of it follows from this.
struct ProblemKey {
  std::string task = "teacher";  ///< "teacher", "rotate15", "rotate90" or "invert"
  Index width = 256;             ///< n
  bool mup = true;         ///< maximal-update parametrisation; or the standard one (images only)
  std::uint64_t seed = 1;  ///< of the frozen network
  Index pretrain_steps = 704;  ///< batches of 128 images: two epochs

  /// "rotate90 n=256 net=1"
  std::string text() const;
  /// The same without the task: "n=256 net=1".
  std::string network_text() const;
};

using Network = loraplus::Mlp<loraplus::Linear<float>>;

/// Values that are made when they are first asked for, each once. Several threads may ask; they
/// wait for each other only over the same value.
template <typename Value>
class Memo {
 public:
  template <typename Make>
  std::shared_ptr<const Value> get(const std::string& key, Make&& make) {
    std::shared_ptr<Entry> entry;
    {
      const std::lock_guard lock(mutex_);
      auto& found = entries_[key];
      if (!found) found = std::make_shared<Entry>();
      entry = found;
    }
    std::call_once(entry->once, [&] { entry->value = std::make_shared<const Value>(make()); });
    return entry->value;
  }

  void clear() {
    const std::lock_guard lock(mutex_);
    entries_.clear();
  }

 private:
  struct Entry {
    std::once_flag once;
    std::shared_ptr<const Value> value;
  };

  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Entry>> entries_;
};

class Problems {
 public:
  /// @param data a folder of IDX files, or "synthetic", for the tasks with images
  explicit Problems(std::string data) : data_(std::move(data)) {}

  /// @throws finetune::NoData, finetune::IdxError
  std::shared_ptr<const Problem> get(const ProblemKey& key);

  /// Reads the images now, so that a run that cannot be done does not begin.
  /// @throws finetune::NoData, finetune::IdxError
  void load_images() { images(); }

  /// Frees the memory of problems that nobody uses; their networks, which took long to train and
  /// are small beside the features of all images, stay.
  void clear();

 private:
  std::shared_ptr<const finetune::Splits> images();

  std::string data_;
  Memo<finetune::Splits> splits_;
  Memo<Network> networks_;
  Memo<Problem> problems_;
};

/// A regression: a random function of four inputs, the same at every width, to be learned by a
/// network with random frozen weights and a head of size 1/n. 256 samples to train on, 1,024 each
/// to validate and to test.
Problem make_teacher_problem(const ProblemKey& key);

/// A network 784-n-n-10 trained by Adam on upright images, whatever the task.
Network pretrain(const ProblemKey& key, const finetune::Splits& splits);

/// The same network, frozen, on shifted images.
Problem make_image_problem(const ProblemKey& key, const Network& network,
                           const finetune::Splits& splits);

/// z = relu(Win x) and W z + b. @param inputs d x samples
Features make_features(const loraplus::Linear<float>& first, const loraplus::Linear<float>& layer,
                       const Matrix<float>& inputs);

/// Fills in loss_before.
void judge_before(Problem& problem);

}  // namespace lab
