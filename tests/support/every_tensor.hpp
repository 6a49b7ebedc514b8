// A file of safetensors used in all ways, for tests with files that anyone may have written.
#pragma once

#include <loraplus/io/state_dict.hpp>

namespace test {

/// Converts every tensor and loads a network; what does not work must be an error that says so.
/// @return how many tensors were converted
inline int use_every_tensor(const loraplus::Safetensors& file) {
  int converted = 0;
  for (const std::string& name : file.names()) {
    try {
      file.at(name).to_matrix<float>();
      ++converted;
    } catch (const loraplus::FileError&) {
    }
  }
  try {
    loraplus::load_mlp<float>(file, {.allow_unused = true});
  } catch (const loraplus::FileError&) {
  } catch (const loraplus::ShapeError&) {
  }
  return converted;
}

}  // namespace test
