// Whatever the bytes are: a file whose tensors lie within it and can be used, or a FileError.
#include <cstdlib>

#include "support/every_tensor.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto header =
        loraplus::read_safetensors_header(std::as_bytes(std::span(data, size)), "fuzz");
    for (const auto& tensor : header.tensors) {
      if (header.data + tensor.end > size || tensor.begin > tensor.end) std::abort();
    }
  } catch (const loraplus::SafetensorsError&) {
    return 0;
  }
  static const int file = ::memfd_create("fuzz", MFD_CLOEXEC);
  if (::ftruncate(file, 0) != 0 || ::pwrite(file, data, size, 0) != static_cast<::ssize_t>(size)) {
    std::abort();
  }
  test::use_every_tensor(loraplus::Safetensors("/proc/self/fd/" + std::to_string(file)));
  return 0;
}
