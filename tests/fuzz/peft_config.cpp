// Whatever the text is: a configuration that can be written, read again and asked about a module,
// or a FileError.
#include <cstdlib>
#include <loraplus/io/peft_config.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  loraplus::PeftConfig config;
  try {
    config = loraplus::parse_peft_config(text, "fuzz");
  } catch (const loraplus::FileError&) {
    return 0;
  }
  const std::string written = loraplus::to_text(config);
  if (loraplus::to_text(loraplus::parse_peft_config(written, "again")) != written) std::abort();
  const std::string module = "net.layers.1.fc1";
  if (loraplus::is_target(config.modules, module) && config.options_for(module).rank < 1)
    std::abort();
  return 0;
}
