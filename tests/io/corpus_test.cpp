// What a fuzzer found to lead to new places, tests/golden/fuzz: read again without its help.
#include <loraplus/io/peft_config.hpp>

#include "support/catch.hpp"
#include "support/every_tensor.hpp"
#include "support/files.hpp"

namespace {

namespace fs = std::filesystem;

const fs::path corpus = fs::path(LORAPLUS_GOLDEN_DIR) / "fuzz";

}  // namespace

TEST_CASE("every header of the corpus is one whose tensors lie in the file, or an error") {
  int accepted = 0, refused = 0, converted = 0;
  for (const auto& entry : fs::directory_iterator(corpus / "safetensors")) {
    const std::string content = test::read(entry.path());
    const std::vector<char> exact(content.begin(), content.end());  // the sanitizer sees its end
    try {
      const auto header =
          loraplus::read_safetensors_header(std::as_bytes(std::span(exact)), "corpus");
      for (const auto& tensor : header.tensors) {
        CHECK(header.data + tensor.end <= exact.size());
      }
      converted += test::use_every_tensor(loraplus::Safetensors(entry.path()));
      ++accepted;
    } catch (const loraplus::SafetensorsError& error) {
      CHECK(std::string(error.what()).find("corpus") == 0);
      ++refused;
    }
  }
  CHECK(accepted > 0);
  CHECK(refused > 0);
  CHECK(converted > 0);
}

TEST_CASE("every configuration of the corpus is written and read again, or an error") {
  int accepted = 0, refused = 0;
  for (const auto& entry : fs::directory_iterator(corpus / "peft_config")) {
    try {
      const auto config = loraplus::parse_peft_config(test::read(entry.path()), "corpus");
      const std::string written = loraplus::to_text(config);
      CHECK(loraplus::to_text(loraplus::parse_peft_config(written, "again")) == written);
      CHECK_NOTHROW(loraplus::is_target(config.modules, "net.layers.1.fc1"));
      ++accepted;
    } catch (const loraplus::FileError& error) {
      CHECK(std::string(error.what()).find("corpus") == 0);
      ++refused;
    }
  }
  CHECK(accepted > 0);
  CHECK(refused > 0);
}
