// Two libraries that were compiled with different versions of loraplus, in one program: each
// computes with its own. A source of each library, with SCALING the name of its function, and the
// program without.
#ifdef SCALING
#include <loraplus/adapter/lora_options.hpp>

double SCALING() {
  return loraplus::lora_scaling({.rank = 2, .alpha = 4});
}
#else
double scaling_of_this_version();
double scaling_of_another_version();

int main() {
  return scaling_of_this_version() == 2 && scaling_of_another_version() == 4 ? 0 : 1;
}
#endif
