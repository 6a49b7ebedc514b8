#include <loraplus/io/safetensors.hpp>

int main() {
  try {
    const loraplus::Safetensors file("there is no such file");
  } catch (const loraplus::FileError&) {
    return 0;
  }
  return 1;
}
