#include "tasks.hpp"

#include <array>
#include <cmath>
#include <numbers>

namespace finetune {
namespace {

using loraplus::Matrix;

/// A pixel as a weighted mean of four pixels of the original; weights of pixels outside are zero.
struct Bilinear {
  std::array<Index, 4> pixels;
  std::array<float, 4> weights;
};

/// What the pixel in this row and column sees when the image is turned clockwise about its centre.
Bilinear turned_pixel(Index row, Index col, Index side, double radians) {
  const double centre = static_cast<double>(side - 1) / 2;
  const double down = static_cast<double>(row) - centre;
  const double right = static_cast<double>(col) - centre;
  const double source_row = centre + std::cos(radians) * down - std::sin(radians) * right;
  const double source_col = centre + std::sin(radians) * down + std::cos(radians) * right;
  const double first_row = std::floor(source_row);
  const double first_col = std::floor(source_col);
  Bilinear result{};
  for (std::size_t corner = 0; corner < 4; ++corner) {
    const double corner_row = first_row + static_cast<double>(corner / 2);
    const double corner_col = first_col + static_cast<double>(corner % 2);
    const auto r = static_cast<Index>(corner_row);
    const auto c = static_cast<Index>(corner_col);
    if (r < 0 || r >= side || c < 0 || c >= side) continue;
    result.pixels[corner] = r * side + c;
    result.weights[corner] = static_cast<float>((1 - std::abs(source_row - corner_row)) *
                                                (1 - std::abs(source_col - corner_col)));
  }
  return result;
}

Matrix<float> turn(const Matrix<float>& images, Index side, double degrees) {
  std::vector<Bilinear> sources;
  for (Index pixel = 0; pixel < images.rows(); ++pixel) {
    sources.push_back(
        turned_pixel(pixel / side, pixel % side, side, degrees * std::numbers::pi / 180));
  }
  Matrix<float> turned(images.rows(), images.cols());
  for (Index image = 0; image < images.cols(); ++image) {
    for (Index pixel = 0; pixel < images.rows(); ++pixel) {
      const Bilinear& source = sources[static_cast<std::size_t>(pixel)];
      float value = 0;
      for (std::size_t corner = 0; corner < 4; ++corner) {
        value += source.weights[corner] * images(source.pixels[corner], image);
      }
      turned(pixel, image) = value;
    }
  }
  return turned;
}

/// A quarter turn clockwise: every pixel is one pixel of the original, nothing is rounded.
Matrix<float> quarter_turn(const Matrix<float>& images, Index side) {
  Matrix<float> turned(images.rows(), images.cols());
  for (Index row = 0; row < side; ++row) {
    for (Index col = 0; col < side; ++col) {
      turned.row(row * side + col) = images.row((side - 1 - col) * side + row);
    }
  }
  return turned;
}

Labelled inverted(Labelled data) {
  data.inputs = 1 - data.inputs.array();
  for (int& label : data.labels) {
    label = (label + 1) % static_cast<int>(classes);
  }
  return data;
}

}  // namespace

const char* description(Task task) {
  switch (task) {
    case Task::rotate15:
      return "turned by 15 degrees";
    case Task::rotate90:
      return "turned by 90 degrees";
    case Task::invert:
      return "inverted, label k made k + 1, head frozen";
  }
  return "";
}

std::vector<std::string> layers_to_adapt(Task task) {
  if (task == Task::invert) return {"fc1", "fc2"};
  return {"fc1", "fc2", "fc3"};
}

Labelled shifted(Task task, Labelled upright, Index side) {
  switch (task) {
    case Task::rotate15:
      return {turn(upright.inputs, side, 15), std::move(upright.labels)};
    case Task::rotate90:
      return {quarter_turn(upright.inputs, side), std::move(upright.labels)};
    case Task::invert:
      return inverted(std::move(upright));
  }
  return upright;
}

}  // namespace finetune
