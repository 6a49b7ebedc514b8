#pragma once

#include <string>
#include <vector>

#include "data.hpp"

namespace finetune {

/// "turned by 15 degrees", after the word images
const char* description(Task task);

/// The layers that a method may change. The head is frozen in the task that permutes the classes,
/// which it could otherwise solve alone.
std::vector<std::string> layers_to_adapt(Task task);

/// The images, and for `invert` the labels, as the shifted task has them.
/// @param side of an image, in pixels
Labelled shifted(Task task, Labelled upright, Index side);

}  // namespace finetune
