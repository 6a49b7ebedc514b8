// Golden data: what PyTorch computed, from the files that golden/generate.py writes.
#pragma once

#include <cmath>
#include <cstdint>
#include <fstream>
#include <loraplus/optim/update_rule.hpp>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

#include "support/catch.hpp"
#include "support/matrices.hpp"

namespace test {

/// The named tensors of one file.
class Golden {
 public:
  explicit Golden(const std::string& file) : file_(file) {
    const std::string path = std::string(LORAPLUS_GOLDEN_DIR) + "/" + file;
    std::ifstream in(path);
    if (!in) throw std::runtime_error("golden file '" + path + "' cannot be read");
    std::string line;
    while (std::getline(in, line)) {
      if (line.empty() || line.front() == '#') continue;
      std::istringstream head(line);
      std::string name;
      Index rows = 0;
      Index cols = 0;
      head >> name >> rows >> cols;
      loraplus::Matrix<double> tensor(rows, cols);
      for (Index i = 0; i < rows; ++i) {
        for (Index j = 0; j < cols; ++j) {
          in >> tensor(i, j);
        }
      }
      if (!head || !in) {
        throw std::runtime_error("golden file '" + file + "': tensor '" + name + "' is incomplete");
      }
      std::getline(in, line);  // what is left of the last row: its end
      tensors_.emplace(name, std::move(tensor));
    }
  }

  const loraplus::Matrix<double>& operator()(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      throw std::runtime_error("golden file '" + file_ + "' has no tensor '" + name + "'");
    }
    return found->second;
  }

 private:
  std::string file_;
  std::map<std::string, loraplus::Matrix<double>> tensors_;
};

/// How the precision of Scalar is called in the names of golden tensors.
template <typename Scalar>
std::string precision_name() {
  static_assert(sizeof(Scalar) == 4 || sizeof(Scalar) == 8);
  return sizeof(Scalar) == 8 ? "float64" : "float32";
}

/// noise() of generate.py, bit for bit: uniform in [-1, 1).
inline double noise(std::uint32_t stream, Index index) {
  std::uint32_t h = stream * 0x9E3779B9U + static_cast<std::uint32_t>(index);
  h ^= h >> 16U;
  h *= 0x85EBCA6BU;
  h ^= h >> 13U;
  h *= 0xC2B2AE35U;
  h ^= h >> 16U;
  return static_cast<double>(h) * 0x1p-31 - 1;
}

/// noise_matrix() of generate.py, numbered row by row; drawn in double, then rounded.
template <typename Scalar>
loraplus::Matrix<Scalar> noise_matrix(std::uint32_t stream, Index rows, Index cols,
                                      double scale = 1) {
  return loraplus::Matrix<Scalar>::NullaryExpr(rows, cols, [=](Index i, Index j) {
    return static_cast<Scalar>(scale * noise(stream, i * cols + j));
  });
}

/// Follows a rule over the path of update_rules.txt of this name, and checks where it is after
/// every recorded step. The gradient depends on where the path is, so an error stays.
template <typename Scalar, loraplus::UpdateRule Rule>
void check_golden_path(const Rule& rule, const std::string& name) {
  const Golden golden("update_rules.txt");
  const auto& steps = golden("steps");
  const auto& path = golden(name + "." + precision_name<Scalar>());
  const Index size = path.cols();
  const double tolerance = sizeof(Scalar) == 8 ? 1e-13 : 1e-6;

  Eigen::Array<Scalar, Eigen::Dynamic, 1> p = noise_matrix<Scalar>(0, size, 1).array();
  Eigen::Array<Scalar, Eigen::Dynamic, 1> gradient(size);
  auto state = loraplus::OptimizerState<Scalar>::Zero(size, rule.state_count()).eval();
  Index row = 0;
  for (Index step = 1; row < steps.size(); ++step) {
    for (Index i = 0; i < size; ++i) {
      const double pull =
          noise(static_cast<std::uint32_t>(step), i) * std::pow(4.0, -static_cast<double>(i % 6));
      gradient(i) = static_cast<Scalar>(0.1) * p(i) + static_cast<Scalar>(pull);
    }
    rule.template update<Scalar>(p, gradient, state, {rule.learning_rate, rule.weight_decay, step});
    if (step != static_cast<Index>(steps(row))) continue;
    INFO(name << " after step " << step);
    CHECK(relative_distance(p.matrix(), path.row(row).transpose()) < tolerance);
    ++row;
  }
}

}  // namespace test
