// Trains without exceptions and RTTI; with an argument, shows what misuse does there.
#include "train.hpp"

int main(int count, char** /*arguments*/) {
  return training_helps(count > 1 ? 0 : 2) ? 0 : 1;
}
