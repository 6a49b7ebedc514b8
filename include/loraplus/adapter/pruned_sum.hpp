// SPDX-License-Identifier: MIT
//
// Weighted sums of tensors of which each loses a part first: TIES (Yadav et al., 2023), DARE (Yu et
// al., 2024) and pruning by magnitude. A tensor is seen as the array of its coefficients.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <loraplus/core/error.hpp>
#include <vector>

namespace loraplus::inline v0_1 {

/// How the sign of an entry is elected among the tensors.
enum class MajoritySign {
  total,      ///< the sign of their sum
  frequency,  ///< the sign that more of them have
};

namespace detail {

using Coefficients = Eigen::ArrayXd;

/// Keeps the floor(density * size) entries of the largest magnitude, of equal ones the first; the
/// others become 0. A density of 1 or more keeps all.
inline void keep_largest(Coefficients& tensor, double density) {
  if (density >= 1) return;
  const auto kept = static_cast<Index>(density * static_cast<double>(tensor.size()));
  if (kept == 0) {
    tensor.setZero();
    return;
  }
  Coefficients magnitudes = tensor.abs();
  double* const last_kept = magnitudes.data() + (kept - 1);
  std::nth_element(magnitudes.data(), last_kept, magnitudes.data() + magnitudes.size(),
                   std::greater<>());
  const double threshold = *last_kept;
  Index equal_ones = kept - (magnitudes > threshold).count();
  for (double& x : tensor) {
    if (std::abs(x) > threshold) continue;
    if (std::abs(x) < threshold || equal_ones-- <= 0) x = 0;
  }
}

/// Keeps each entry with probability `density` and divides it by that, so that the expectation
/// stays; the others become 0. A density of 1 or more keeps all and draws nothing.
/// @param uniform gives numbers in [0, 1), one for each entry in order
inline void keep_at_random(Coefficients& tensor, double density,
                           const std::function<double()>& uniform) {
  if (density >= 1) return;
  for (double& x : tensor) {
    x = uniform() < density ? x / density : 0;
  }
}

/// The sum of weights[i] * tensors[i].
inline Coefficients weighted_sum(const std::vector<Coefficients>& tensors,
                                 const std::vector<double>& weights) {
  Coefficients sum = weights.front() * tensors.front();
  for (std::size_t i = 1; i < tensors.size(); ++i) {
    sum += weights[i] * tensors[i];
  }
  return sum;
}

/// The elect and the disjoint merge of TIES. In each entry a sign is elected, + if there is no
/// majority, and without regard to the weights; the weighted tensors that have it there are summed
/// and divided by their number. An entry of 0 has no sign.
inline Coefficients elected_sum(const std::vector<Coefficients>& tensors,
                                const std::vector<double>& weights, MajoritySign majority) {
  const auto sign = [](double x) { return x == 0 ? 0.0 : std::copysign(1.0, x); };
  Coefficients sum(tensors.front().size());
  for (Index entry = 0; entry < sum.size(); ++entry) {
    double votes = 0;
    for (const Coefficients& tensor : tensors) {
      votes += majority == MajoritySign::total ? tensor(entry) : sign(tensor(entry));
    }
    const double elected = votes >= 0 ? 1 : -1;
    double agreeing = 0, count = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (sign(tensors[i](entry)) != elected) continue;
      agreeing += weights[i] * tensors[i](entry);
      ++count;
    }
    sum(entry) = agreeing / std::max(count, 1.0);
  }
  return sum;
}

}  // namespace detail
}  // namespace loraplus
