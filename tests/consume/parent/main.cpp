#include <loraplus/loraplus.hpp>

#include "train.hpp"
#include "version.hpp"

int main() {
  return is_this_version() && training_helps() ? 0 : 1;
}
