// Whatever the bytes are: a header whose tensors lie within the file, or a SafetensorsError.
#include <cstdlib>
#include <loraplus/io/safetensors_header.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto header =
        loraplus::read_safetensors_header(std::as_bytes(std::span(data, size)), "fuzz");
    for (const auto& tensor : header.tensors) {
      if (header.data + tensor.end > size || tensor.begin > tensor.end) std::abort();
    }
  } catch (const loraplus::SafetensorsError&) {
  }
  return 0;
}
