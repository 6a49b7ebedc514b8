// SPDX-License-Identifier: MIT
#pragma once

#include <limits>
#include <loraplus/nn/layer.hpp>
#include <loraplus/train/data.hpp>

namespace loraplus::inline v0_1 {

/// The share of samples whose largest output is that of their label (none of whose
/// outputs is NaN); NaN if there are no samples.
/// @param data inputs in x samples, evaluated `batch` samples at a time
template <Layer Model>
double accuracy(const Model& model, const LabelledData<typename Model::Scalar>& data,
                Index batch = 256) {
  data.validate();
  require_argument(batch >= 1, "accuracy", "batch must be at least 1", static_cast<double>(batch));
  if (data.size() == 0) return std::numeric_limits<double>::quiet_NaN();
  auto cache = model.make_cache(batch);
  Matrix<typename Model::Scalar> logits(model.out_features(), batch);  // classes x batch
  Index correct = 0;
  for (Index first = 0; first < data.size(); first += batch) {
    const Index samples = std::min(batch, data.size() - first);
    model.forward(data.inputs.middleCols(first, samples), logits.leftCols(samples), cache);
    for (Index i = 0; i < samples; ++i) {
      Index predicted = 0;
      logits.col(i).maxCoeff(&predicted);
      const bool right = predicted == data.labels[static_cast<std::size_t>(first + i)];
      correct += right && !logits.col(i).hasNaN() ? 1 : 0;
    }
  }
  return static_cast<double>(correct) / static_cast<double>(data.size());
}

}  // namespace loraplus
