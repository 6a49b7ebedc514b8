// The IDX files of MNIST and its relatives, plain or gzipped: http://yann.lecun.com/exdb/mnist
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <vector>

namespace finetune {

using Bytes = Eigen::Matrix<std::uint8_t, Eigen::Dynamic, Eigen::Dynamic>;

/// A file that cannot be read, or is not what it should be; names the file.
class IdxError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct IdxImages {
  Eigen::Index rows;
  Eigen::Index cols;
  Bytes pixels;  // rows cols x images; an image row by row
};

/// @throws IdxError
IdxImages read_idx_images(const std::filesystem::path& file);

/// @throws IdxError
std::vector<std::uint8_t> read_idx_labels(const std::filesystem::path& file);

}  // namespace finetune
