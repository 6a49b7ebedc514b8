#include <loraplus/io/safetensors_header.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"

using loraplus::Dtype;
using loraplus::SafetensorsError;
using loraplus::SafetensorsFault;
using loraplus::SafetensorsHeader;

namespace {

/// A file with this header, as it stands, and so many bytes of tensors.
std::string file_of(const std::string& header, std::size_t bytes) {
  std::string file(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) {
    file[i] = static_cast<char>((header.size() >> (8 * i)) & 0xFF);
  }
  return file + header + std::string(bytes, '\0');
}

SafetensorsHeader read(const std::string& file) {
  // in memory of just its size: what is read beyond is found by the address sanitizer
  const std::vector<char> exact(file.begin(), file.end());
  return loraplus::read_safetensors_header(std::as_bytes(std::span(exact)), "x.safetensors");
}

SafetensorsFault fault_of(const std::string& file) {
  try {
    read(file);
  } catch (const SafetensorsError& error) {
    CHECK(std::string(error.what()).find("x.safetensors: ") == 0);
    return error.fault();
  }
  FAIL("the file was accepted");
  return {};
}

std::string damage_of(const std::string& file) {
  return test::message_of<SafetensorsError>([&] { read(file); });
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape +
         "],\"data_offsets\":[" + offsets + "]}";
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "{" + tensor("t", dtype, shape, offsets) + "}";
}

}  // namespace

TEST_CASE("a header tells names, types, shapes and places") {
  const auto header =
      read(file_of("{\"__metadata__\":{\"format\":\"pt\"}," + tensor("b", "F16", "3", "24,30") +
                       "," + tensor("a", "F32", "2,3", "0,24") + "} ",
                   30));
  CHECK(header.metadata.at("format") == "pt");
  REQUIRE(header.tensors.size() == 2);
  CHECK(header.tensors[0].name == "a");
  CHECK(header.tensors[0].dtype == Dtype::f32);
  CHECK(header.tensors[0].shape == std::vector<std::uint64_t>{2, 3});
  CHECK(header.tensors[1].name == "b");
  CHECK(header.tensors[1].begin == 24);
  CHECK(header.tensors[1].end == 30);
}

TEST_CASE("what the reference implementation accepts is accepted") {
  const std::vector<std::pair<std::string, std::size_t>> files = {
      {"{}", 0},
      {"{}      ", 0},
      {" \n\t{} ", 0},
      {"{\"__metadata__\":null}", 0},
      {"{\"__metadata__\":{}}", 0},
      {one("F32", "", "0,4"), 4},     // no dimension: one element
      {one("F32", "2,0", "0,0"), 0},  // a dimension of size 0
      {one("BOOL", "3", "0,3"), 3},   // a header of no multiple of 8
      {one("F4", "2", "0,1"), 1},     // two elements in a byte
      {one("F6_E2M3", "4", "0,3"), 3},
      {"{\"t\":{\"shape\":[1],\"data_offsets\":[0,1],\"dtype\":\"U8\"}}", 1},
      {"{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"more\":{\"a\":[{}]}}}", 1},
      {"{\"t\":{\"dtype\":\"U8\",\"more\":1.5,\"shape\":[1],\"data_offsets\":[0,1]}}", 1},
      {"{\"t\":{\"dtype\":\"U8\",\"more\":" + std::string(300, '1') +
           ",\"shape\":[1],\"data_offsets\":[0,1]}}",
       1},
      {"{\"t\":{\"dtype\":\"U8\",\"more\":0." + std::string(1000, '1') +
           ",\"shape\":[1],\"data_offsets\":[0,1]}}",
       1},
      {"{\"\\u00e9 \\\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1},
  };
  for (const auto& [header, bytes] : files) {
    CAPTURE(header);
    CHECK_NOTHROW(read(file_of(header, bytes)));
  }
}

TEST_CASE("each check of the reference implementation, in its order, names what is wrong") {
  CHECK(fault_of("") == SafetensorsFault::header_too_small);
  CHECK(fault_of("1234567") == SafetensorsFault::header_too_small);
  CHECK(fault_of(std::string(8, '\xFF')) == SafetensorsFault::header_too_large);
  // 100,000,001 = 0x05F5E101, told before the end of the file is looked for
  CHECK(fault_of(std::string("\x01\xE1\xF5\x05\0\0\0\0", 8)) == SafetensorsFault::header_too_large);
  CHECK(fault_of(std::string("\x00\xE1\xF5\x05\0\0\0\0", 8)) ==
        SafetensorsFault::invalid_header_length);
  CHECK(fault_of(std::string("<\0\0\0\0\0\0\0", 8)) == SafetensorsFault::invalid_header_length);
  CHECK(fault_of(file_of("\xFF", 0)) == SafetensorsFault::invalid_header);
  for (const std::string text : {"\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                                 "\xF8\x88\x80\x80\x80", "\xE2\x82", "\x80"}) {
    CHECK(fault_of(file_of("{\"" + text + "\":1}", 0)) == SafetensorsFault::invalid_header);
  }
  CHECK(fault_of(file_of(one("F32", "1", "0,4").replace(1, 3, "\"t\":{\"dtype\":\"F32\"},\"u\""),
                         4)) == SafetensorsFault::invalid_header_deserialization);
  for (const std::string text :
       {"",
        " ",
        "{",
        "[]",
        "1",
        "null",
        "\"t\"",
        "{}x",
        "{}{}",
        "\xEF\xBB\xBF{}",
        "{\"t\":1}",
        "{\"t\":null}",
        "{\"t\":[]}",
        "{\"t\":{}}",
        "{\"t\":{\"dtype\":\"F32\"}}",
        "{\"__metadata__\":1}",
        "{\"__metadata__\":[]}",
        "{\"__metadata__\":{\"a\":1}}",
        "{\"__metadata__\":{\"a\":{}}}",
        "{\"__metadata__\":{},\"__metadata__\":{}}",
        "{\"t\":{\"dtype\":[],\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"t\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}",
        "{\"t\":{\"dtype\":\"F32\",\"shape\":[[1]],\"data_offsets\":[0,4]}}",
        "{\"t\":{\"dtype\":\"F32\",\"shape\":{},\"data_offsets\":[0,4]}}"}) {
    CAPTURE(text);
    CHECK(fault_of(file_of(text, 0)) == SafetensorsFault::invalid_header_deserialization);
  }
  for (const std::string& end : {std::string("\0\0", 2), std::string("\0{", 2)}) {
    CHECK(fault_of(file_of("{}" + end, 0)) == SafetensorsFault::invalid_header_deserialization);
  }
  for (const std::string& number : {std::string("1e999"), std::string(310, '9'),
                                    std::string(1000, '1'), std::string(1000, '1') + ".5"}) {
    CHECK(fault_of(file_of(one("U8", "1", "0,1").insert(6, "\"more\":" + number + ","), 1)) ==
          SafetensorsFault::invalid_header_deserialization);
  }
  for (const std::string shape : {"-1", "1.0", "18446744073709551616", "\"1\"", "true", "null"}) {
    CAPTURE(shape);
    CHECK(fault_of(file_of(one("F32", shape, "0,4"), 4)) ==
          SafetensorsFault::invalid_header_deserialization);
  }
  for (const std::string offsets : {"", "0", "0,4,8", "-1,4", "0,4.0"}) {
    CAPTURE(offsets);
    CHECK(fault_of(file_of(one("F32", "1", offsets), 4)) ==
          SafetensorsFault::invalid_header_deserialization);
  }
  CHECK(fault_of(file_of(one("F31", "1", "0,4"), 4)) ==
        SafetensorsFault::invalid_header_deserialization);

  CHECK(fault_of(file_of(one("F32", "1", "4,8"), 8)) == SafetensorsFault::invalid_offset);
  CHECK(fault_of(file_of(
            one("F32", "1", "0,4").replace(1, 0, tensor("u", "F32", "1", "8,12") + ","), 12)) ==
        SafetensorsFault::invalid_offset);
  std::string same = "{";
  for (char name = 'a'; name < 'k'; ++name) {  // ten tensors of the same bytes
    same += (same.size() > 1 ? "," : "") + tensor(std::string(1, name), "F32", "2,2", "0,16");
  }
  CHECK(fault_of(file_of(same + "}", 16)) == SafetensorsFault::invalid_offset);

  CHECK(fault_of(file_of(one("F32", "2,18446744073709551614", "0,16"), 16)) ==
        SafetensorsFault::validation_overflow);
  CHECK(fault_of(file_of(one("F32", "2,9223372036854775807", "0,16"), 16)) ==
        SafetensorsFault::validation_overflow);
  CHECK(fault_of(file_of(one("F32", "9223372036854775808,2,0", "0,0"), 0)) ==
        SafetensorsFault::validation_overflow);  // from left to right
  CHECK(fault_of(file_of(one("F4", "1", "0,1"), 1)) == SafetensorsFault::misaligned_slice);
  CHECK(fault_of(file_of(one("F32", "2,2", "0,4"), 4)) == SafetensorsFault::tensor_invalid_info);
  CHECK(fault_of(file_of(one("F32", "1", "0,4"), 3)) ==
        SafetensorsFault::metadata_incomplete_buffer);
  CHECK(fault_of(file_of(one("F32", "1", "0,4"), 5)) ==
        SafetensorsFault::metadata_incomplete_buffer);
}

TEST_CASE("tensors of one name are refused, wherever they lie") {
  for (const std::string offsets : {"4,8", "0,4", "9,4"}) {
    CHECK(fault_of(file_of("{" + tensor("t", "F32", "1", "0,4") + "," +
                               tensor("s", "F32", "", "8,12") + "," +
                               tensor("t", "F32", "1", offsets) + "}",
                           12)) == SafetensorsFault::duplicate_name);
  }
}

TEST_CASE("a field that is there twice is what it is for the reference implementation") {
  for (const std::string field : {R"("dtype":"U8")", R"("shape":[1])", R"("data_offsets":[0,1])"}) {
    const std::string header =
        one("U8", "1", "0,1").insert(one("U8", "1", "0,1").size() - 2, "," + field);
    CAPTURE(header);
    CHECK(fault_of(file_of(header, 1)) == SafetensorsFault::invalid_header_deserialization);
    CHECK(test::contains(damage_of(file_of(header, 1)), "'t' has two fields"));
  }
  CHECK_NOTHROW(read(file_of(R"({"__metadata__":{"a":"1","a":"2"}})", 0)));
}

TEST_CASE("a tensor is found by its name") {
  const auto header =
      read(file_of("{" + tensor("b", "U8", "1", "0,1") + "," + tensor("a", "U8", "1", "2,3") + "," +
                       tensor("c", "U8", "1", "1,2") + "}",
                   3));
  for (const std::string name : {"a", "b", "c"}) {
    REQUIRE(header.find(name) != nullptr);
    CHECK(header.find(name)->name == name);
  }
  CHECK(header.find("a")->begin == 2);
  CHECK(header.find("") == nullptr);
  CHECK(header.find("bb") == nullptr);
  CHECK(header.find("d") == nullptr);
}

TEST_CASE("a tensor has at most 64 dimensions") {
  std::string shape = "1";
  for (int i = 1; i < 64; ++i) {
    shape += ",1";
  }
  CHECK(read(file_of(one("U8", shape, "0,1"), 1)).tensors[0].shape.size() == 64);
  CHECK(test::contains(damage_of(file_of(one("U8", shape + ",1", "0,1"), 1)),
                       "'t' has more than 64 dimensions"));
}

TEST_CASE("blanks are passed over where they are none of a text's") {
  const auto header =
      read(file_of(" {\n\n \"a  \\\\\" :\t{ \"dtype\" : \"U8\" ,\r\n\"shape\":[ 1 ],  "
                   "\"data_offsets\":[0 , 1] } ,\n\n"
                   "\"__metadata__\":{\"x  y\":\"\\\"  z\"}} \n ",
                   1));
  CHECK(header.tensors[0].name == "a  \\");
  CHECK(header.metadata.at("x  y") == "\"  z");
  CHECK(fault_of(file_of(one("U8", "1  1", "0,1"), 1)) ==
        SafetensorsFault::invalid_header_deserialization);
}

TEST_CASE("a message tells the tensor and what was expected") {
  CHECK(test::contains(damage_of(file_of(one("F32", "2,2", "0,4"), 4)),
                       "'t' has 4 bytes, its shape and type need 16"));
  CHECK(test::contains(damage_of(file_of(one("F31", "1", "0,4"), 4)),
                       "'t' has the unknown type 'F31'"));
  CHECK(test::contains(damage_of(file_of("{\"t\":{\"dtype\":\"F32\"}}", 4)),
                       "'t' has no field 'shape'"));
  CHECK(test::contains(damage_of(file_of("[]", 0)), "it must be an object, found a list"));
}

TEST_CASE("names and metadata are as long as a file has them") {
  const std::string name(100'000, 'n');
  std::string text;
  for (int i = 0; i < 20'000; ++i) {
    text += R"({\"a\": \"\u00e9\"} )";
  }
  const auto header = read(file_of(
      R"({"__metadata__":{"json":")" + text + "\"}," + tensor(name, "U8", "1", "0,1") + "}", 1));
  CHECK(header.find(name) != nullptr);
  CHECK(header.metadata.at("json").size() == 20'000 * 12);
  CHECK(header.metadata.at("json").substr(12, 12) == "{\"a\": \"\xC3\xA9\"} ");
}

TEST_CASE("what is wrong in the JSON is told with its place") {
  CHECK(test::contains(damage_of(file_of("{\"name\" :   {\"a\\x\":1}}", 0)),
                       "the header is damaged: before byte 17, syntax error"));
}

TEST_CASE("what is nested deeply is refused, however deeply") {
  for (const std::size_t depth : {200U, 1'000'000U}) {
    CHECK(fault_of(file_of(
              "{\"t\":{\"more\":" + std::string(depth, '[') + std::string(depth, ']') + "}}", 0)) ==
          SafetensorsFault::invalid_header_deserialization);
    CHECK(fault_of(file_of(std::string(depth, '['), 0)) ==
          SafetensorsFault::invalid_header_deserialization);
  }
  const auto nested = [](std::size_t depth) {  // the header, the tensor and so many lists
    return file_of("{\"t\":{\"more\":" + std::string(depth - 2, '[') + std::string(depth - 2, ']') +
                       "," + one("U8", "1", "0,1").substr(6),
                   1);
  };
  CHECK_NOTHROW(read(nested(127)));
  CHECK(fault_of(nested(128)) == SafetensorsFault::invalid_header_deserialization);
}

TEST_CASE(
    "every truncation and every change of a byte of the header ends in an error or a header") {
  const std::string whole =
      file_of("{\"__metadata__\":{\"format\":\"pt\"}," + tensor("a", "F32", "2,3", "0,24") + "," +
                  tensor("b", "I64", "2", "24,40") + "}",
              40);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    CHECK_THROWS_AS(read(whole.substr(0, size)), SafetensorsError);
  }
  // The same byte, another letter of a name, or another type of this size: no place has moved.
  const auto is_harmless = [](const SafetensorsHeader& header) {
    const auto& tensors = header.tensors;
    return tensors.size() == 2 && tensors[0].name.size() == 1 && tensors[1].name.size() == 1 &&
           bits(tensors[0].dtype) == 32 && bits(tensors[1].dtype) == 64 &&
           tensors[0].shape == std::vector<std::uint64_t>{2, 3} &&
           tensors[1].shape == std::vector<std::uint64_t>{2} && tensors[0].begin == 0 &&
           tensors[0].end == 24 && tensors[1].begin == 24 && tensors[1].end == 40;
  };
  int accepted = 0, wrong = 0;
  for (std::size_t at = 0; at < whole.size() - 40; ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = whole;
      changed[at] = static_cast<char>(value);
      try {
        wrong += is_harmless(read(changed)) ? 0 : 1;
        ++accepted;
      } catch (const SafetensorsError&) {
      }
    }
  }
  CHECK(wrong == 0);
  CHECK(accepted == 1087);  // as many as the reference implementation accepts (0.8.0)
}
