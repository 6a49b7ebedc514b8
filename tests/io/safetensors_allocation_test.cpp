// What a header can make the reader allocate. This test is a program of its own: it counts.
#include <loraplus/io/safetensors_header.hpp>

#include "support/allocations.hpp"
#include "support/catch.hpp"

namespace {

struct Used {
  std::size_t largest = 0;
  std::size_t bytes = 0;
};

/// What reading a file of this header and no more allocates, whether it is refused or not.
Used allocated(const std::string& header, std::size_t& file_size) {
  std::string file(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) {
    file[i] = static_cast<char>((header.size() >> (8 * i)) & 0xFF);
  }
  file += header;
  file_size = file.size();
  const std::size_t before = test::allocations.bytes;
  test::allocations.largest = 0;
  try {
    loraplus::read_safetensors_header(std::as_bytes(std::span(file)), "x");
  } catch (const loraplus::SafetensorsError&) {
  }
  return {test::allocations.largest, test::allocations.bytes - before};
}

std::string numbers(std::size_t count) {
  std::string text = "1";
  for (std::size_t i = 1; i < count; ++i) {
    text += ",1";
  }
  return text;
}

std::string empty_tensors(int count, const std::string& shape) {
  std::string text = "{";
  for (int i = 0; i < count; ++i) {
    text += (i == 0 ? "\"" : ",\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[)" + shape +
            R"(],"data_offsets":[0,0]})";
  }
  return text + "}";
}

}  // namespace

TEST_CASE("no allocation is larger than the file") {
  const std::string fields = R"("dtype":"U8","data_offsets":[0,0])";
  const std::string blanks(1'000'000, '\n');
  for (const std::string& header :
       {"{\"t\":{\"shape\":[" + numbers(2'000'000) + "]," + fields + "}}",
        empty_tensors(140'000, "0"), empty_tensors(20'000, "0," + numbers(63)),
        "{" + blanks + "}" + blanks, blanks + "x",
        "{\"t\":{\"more\":[" + numbers(1'000'000) + "],\"shape\":[0]," + fields + "}}",
        "{\"t\":{\"more\":" + std::string(1'000'000, '[') + "}}"}) {
    std::size_t file = 0;
    const Used used = allocated(header, file);
    CAPTURE(header.substr(0, 60), file, used.largest, used.bytes);
    CHECK(used.largest <= file);
    CHECK(used.bytes <= 7 * file);
  }
}

// The JSON library doubles the memory of what it reads until it has room: it must not read them.
TEST_CASE("no allocation is larger than a file that is one text or number") {
  for (const std::size_t size : {std::size_t{1000}, std::size_t{1} << 20, std::size_t{1} << 21}) {
    const std::string name(size + 1, 'n'), digits(size + 1, '1');
    std::string escapes;
    while (escapes.size() <= size) {
      escapes += "\\u00e9\\n";
    }
    for (const std::string& header :
         {"{\"" + name + "\":1}", "{\"" + name, "\"" + name + "\"", "{\"t\":{\"dtype\":\"" + name,
          "{\"t\":{\"dtype\":\"" + name + "\"}}", "{\"" + name + "\":{\"dtype\":\"U8\",\"U8\"}}",
          "{\"" + name + R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
          "{\"__metadata__\":{\"a\":\"" + name + "\"}}", "{\"__metadata__\":{\"" + name + "\":1}}",
          "{\"__metadata__\":{\"a\":\"" + escapes + "\"}}",
          "{\"__metadata__\":{\"a\":\"" + escapes + "\\x\"}}",
          "{\"t\":{\"" + name + "\":\"" + name + "\"}}", "{\"t\":{\"more\":" + digits + "}}",
          "{\"t\":{\"more\":-0." + digits + "e" + digits, "{\"t\":" + digits + "}", digits}) {
      std::size_t file = 0;
      const Used used = allocated(header, file);
      CAPTURE(header.substr(0, 60), file, used.largest, used.bytes);
      CHECK(used.largest <= file);
    }
  }
}
