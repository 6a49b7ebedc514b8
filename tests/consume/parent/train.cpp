#include "train.hpp"

#include "../train.hpp"

bool training_helps() {
  return training_helps(2);
}
