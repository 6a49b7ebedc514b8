#pragma once

#include <loraplus/train/data.hpp>
#include <stdexcept>
#include <string>

#include "options.hpp"

namespace finetune {

using Labelled = loraplus::LabelledData<float>;

inline constexpr Index classes = 10;

/// Upright images, a column each, pixels from 0 to 1 row by row, in four parts that share none.
struct Splits {
  std::string name;     ///< "Fashion-MNIST"
  Index side;           ///< of an image, in pixels
  Labelled pretrain;    ///< 9/12 of the training images
  Labelled pool;        ///< 2/12: to adapt on
  Labelled validation;  ///< 1/12: learning rates are chosen by it
  Labelled test;        ///< only for the numbers that are reported
};

/// No files to read; says where to get them.
class NoData : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// @throws NoData, IdxError
Splits load(const Options& options);

}  // namespace finetune
