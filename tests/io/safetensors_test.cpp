#include <fstream>
#include <limits>
#include <loraplus/io/safetensors.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/matrices.hpp"

using loraplus::ArgumentError;
using loraplus::Dtype;
using loraplus::FileError;
using loraplus::Matrix;
using loraplus::RowMajorMatrix;
using loraplus::Safetensors;
using loraplus::SafetensorsError;
using loraplus::TensorList;
using loraplus::TensorView;
using loraplus::Vector;
using loraplus::write_safetensors;

namespace {

namespace fs = std::filesystem;

template <typename Element>
concept UsedInPlace = requires(const TensorView& tensor) {
  tensor.in_place<Element>();
};

/// Bytes of memory of this process that are resident.
std::size_t resident() {
  std::ifstream file("/proc/self/statm");
  std::size_t total = 0, pages = 0;
  file >> total >> pages;
  return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

TEST_CASE("a file has the very bytes of the reference implementation's") {
  const fs::path folder = test::fresh_folder("safetensors_golden");
  TensorList tensors;
  const Matrix<float> b = test::random_matrix<float>(4, 2, 1);
  const Matrix<float> a = test::random_matrix<float>(2, 3, 2);
  tensors.add("base_model.model.lin0.lora_B.weight", b);
  tensors.add("base_model.model.lin0.lora_A.weight", a);
  write_safetensors(folder / "x", tensors, {{"format", "pt"}});
  const std::string content = test::read(folder / "x");
  CHECK(content.size() == 280);
  CHECK(content.substr(0, 8) == std::string("\xD8\0\0\0\0\0\0\0", 8));
  CHECK(content.substr(8, 216) ==
        "{\"__metadata__\":{\"format\":\"pt\"},\"base_model.model.lin0.lora_A.weight\":{\"dtype\":"
        "\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},\"base_model.model.lin0.lora_B.weight\":{"
        "\"dtype\":\"F32\",\"shape\":[4,2],\"data_offsets\":[24,56]}}   ");
  const RowMajorMatrix<float> rows = a;
  CHECK(content.substr(224, 24) == std::string(reinterpret_cast<const char*>(rows.data()), 24));
  CHECK_FALSE(fs::exists(folder / ".x.part"));

  write_safetensors(folder / "empty", {});
  CHECK(test::read(folder / "empty") == std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
}

TEST_CASE("larger types come first, then names in order") {
  const fs::path folder = test::fresh_folder("safetensors_order");
  TensorList tensors;
  tensors.add("f16", Eigen::Matrix<Eigen::half, 1, 1>(Eigen::half(1)));
  tensors.add("i32", Eigen::Matrix<std::int32_t, 1, 1>(1));
  tensors.add("bf16", Eigen::Matrix<Eigen::bfloat16, 1, 1>(Eigen::bfloat16(1)));
  tensors.add("u64", Eigen::Matrix<std::uint64_t, 1, 1>(1));
  tensors.add("f32 b", Eigen::Matrix<float, 1, 1>(1.0F));
  tensors.add("f32 a", Eigen::Matrix<float, 1, 1>(2.0F));
  tensors.add("f64", Eigen::Matrix<double, 1, 1>(1.0));
  tensors.add("i64", Eigen::Matrix<std::int64_t, 1, 1>(1));
  tensors.add("u8", Eigen::Matrix<std::uint8_t, 1, 1>(std::uint8_t{1}));
  write_safetensors(folder / "x", tensors);
  CHECK(Safetensors(folder / "x").names() == std::vector<std::string>{"u64", "i64", "f64", "f32 a",
                                                                      "f32 b", "i32", "bf16", "f16",
                                                                      "u8"});
}

TEMPLATE_TEST_CASE("a tensor comes back as it was, in place and converted", "", float, double,
                   Eigen::half, Eigen::bfloat16, std::int8_t, std::uint8_t, std::int16_t,
                   std::uint16_t, std::int32_t, std::uint32_t, std::int64_t, std::uint64_t) {
  const fs::path folder =
      test::fresh_folder("safetensors_" + std::string(to_string(loraplus::dtype_of<TestType>)));
  using Elements = Eigen::Matrix<TestType, Eigen::Dynamic, Eigen::Dynamic>;
  const Matrix<double> numbers =
      (100 * test::random_matrix<double>(5, 3, 1)).array().abs().floor().min(127);
  const Elements matrix = numbers.unaryExpr([](double v) { return static_cast<TestType>(v); });
  TensorList tensors;
  tensors.add("matrix", matrix);
  tensors.add("block", matrix.block(1, 1, 3, 2));
  tensors.add("vector", matrix.col(1));
  tensors.add("row", matrix.row(2));
  tensors.add("empty", Elements(0, 4));
  write_safetensors(folder / "x", tensors);

  const Safetensors file(folder / "x");
  CHECK(file.size() == 5);
  CHECK(file.at("matrix").template in_place<TestType>() == matrix);
  CHECK(file.at("block").template in_place<TestType>() == matrix.block(1, 1, 3, 2));
  CHECK(file.at("vector").shape == std::vector<loraplus::Index>{5});
  CHECK(file.at("row").shape == std::vector<loraplus::Index>{3});
  CHECK(file.at("empty").shape == std::vector<loraplus::Index>{0, 4});
  CHECK(file.at("empty").template in_place<TestType>().size() == 0);
  CHECK(file.at("matrix").template to_matrix<double>() == matrix.template cast<double>());
  CHECK(file.at("matrix").template to_matrix<float>() == matrix.template cast<float>());
  CHECK(file.at("vector").template to_vector<double>() == matrix.col(1).template cast<double>());
}

TEST_CASE("matrices of whatever sides and orders are copied whole, there and back") {
  const fs::path folder = test::fresh_folder("safetensors_tiles");
  for (const auto& [rows, cols] : std::vector<std::pair<loraplus::Index, loraplus::Index>>{
           {1, 1}, {1, 100}, {100, 1}, {31, 33}, {32, 32}, {33, 64}, {65, 97}}) {
    const Matrix<float> matrix = test::random_matrix<float>(rows, cols, 4);
    const RowMajorMatrix<float> by_rows = matrix;
    TensorList tensors;
    tensors.add("columns", matrix);
    tensors.add("rows", by_rows);
    tensors.add("expression", 2 * matrix);
    tensors.add("transposed", matrix.transpose());
    write_safetensors(folder / "x", tensors);
    const Safetensors file(folder / "x");
    CAPTURE(rows, cols);
    CHECK(file.at("columns").in_place<float>() == matrix);
    CHECK(file.at("rows").in_place<float>() == matrix);
    CHECK(file.at("expression").in_place<float>() == 2 * matrix);
    CHECK(file.at("transposed").in_place<float>() == matrix.transpose());
    CHECK(file.at("columns").to_matrix<float>() == matrix);
    CHECK(file.at("transposed").to_matrix<double>() == matrix.transpose().cast<double>());
  }
}

TEST_CASE("what is not finite keeps its bits") {
  const fs::path folder = test::fresh_folder("safetensors_nan");
  Vector<float> values(4);
  values << std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), -0.0F,
      std::numeric_limits<float>::denorm_min();
  TensorList tensors;
  tensors.add("x", values);
  write_safetensors(folder / "x", tensors);
  CHECK(
      test::same_bits(Vector<float>(Safetensors(folder / "x").at("x").in_place<float>()), values));
}

TEST_CASE("wrong uses of a tensor are named") {
  const fs::path folder = test::fresh_folder("safetensors_uses");
  TensorList tensors;
  const Matrix<float> matrix = test::random_matrix<float>(2, 3, 1);
  tensors.add("w", matrix);
  const std::vector<std::byte> bytes(24);
  tensors.add({"cube", Dtype::f32, {1, 2, 3}, bytes, {}});
  tensors.add({"eighths", Dtype::f8_e4m3, {24}, bytes, {}});
  write_safetensors(folder / "x.safetensors", tensors);
  const Safetensors file(folder / "x.safetensors");
  const auto message = [](auto&& use) { return test::message_of<FileError>(use); };
  CHECK(test::contains(message([&] { file.at("v"); }), "x.safetensors has no tensor 'v'"));
  CHECK(test::contains(message([&] { file.at("w").in_place<double>(); }),
                       "x.safetensors: 'w' (F32, 2 x 3) cannot be used in place as F64"));
  CHECK(test::contains(message([&] { file.at("w").to_vector<float>(); }), "one dimension"));
  CHECK(test::contains(message([&] { file.at("cube").to_matrix<float>(); }),
                       "'cube' (F32, 1 x 2 x 3) must have at most two dimensions"));
  CHECK(test::contains(message([&] { file.at("eighths").to_vector<float>(); }),
                       "'eighths' (F8_E4M3, 24) has a type that cannot be converted"));
  CHECK(test::contains(message([&] { Safetensors(folder / "none"); }), "No such file"));
  CHECK(test::contains(message([&] { Safetensors{folder}; }), folder.string() + ": it is no file"));
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK(test::contains(message([&] { Safetensors(folder / "pipe"); }), "pipe: it is no file"));
}

TEST_CASE("truth values are 0 and 1, whatever their bytes") {
  const fs::path folder = test::fresh_folder("safetensors_truth");
  TensorList tensors;
  const std::vector<std::byte> bytes = {std::byte{0}, std::byte{1}, std::byte{7}, std::byte{255}};
  tensors.add({"t", Dtype::boolean, {4}, bytes, {}});
  write_safetensors(folder / "x", tensors);
  CHECK(Safetensors(folder / "x").at("t").to_vector<float>() == Eigen::Vector4f(0, 1, 1, 1));
  static_assert(!UsedInPlace<bool> && UsedInPlace<std::uint8_t>);
}

TEST_CASE("a dimension that no matrix has is refused where the tensor is used") {
  const fs::path folder = test::fresh_folder("safetensors_dimensions");
  const auto file_with = [&](const std::string& shape) {
    const std::string header =
        R"({"t":{"dtype":"F32","shape":[)" + shape + R"(],"data_offsets":[0,0]}})";
    test::write(folder / "x", static_cast<char>(header.size()) + std::string(7, '\0') + header);
    return Safetensors(folder / "x");
  };
  for (const std::string shape : {"0,18446744073709551615", "9223372036854775808,0"}) {
    CHECK(test::contains(test::message_of<FileError>([&] { file_with(shape).at("t"); }),
                         "'t' has a dimension of "));
  }
  const auto empty = file_with("0,9223372036854775807").at("t");
  CHECK(empty.to_matrix<float>().cols() == 9223372036854775807);
  CHECK(file_with("9223372036854775807,0").at("t").to_matrix<float>().size() == 0);  // at once
}

TEST_CASE("a tensor that its file does not align is not used in place, but converted") {
  const fs::path folder = test::fresh_folder("safetensors_align");
  std::string header = R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  header.resize(61, ' ');  // no multiple of 4
  test::write(folder / "x",
              std::string("\x3D\0\0\0\0\0\0\0", 8) + header + std::string("\0\0\x80\x3F", 4));
  const Safetensors file(folder / "x");
  CHECK_THROWS_AS(file.at("t").in_place<float>(), FileError);
  CHECK(file.at("t").to_vector<float>()(0) == 1);
}

TEST_CASE("lists that no file can hold are refused, and the old file stays") {
  const fs::path folder = test::fresh_folder("safetensors_refused");
  TensorList good, reserved, twice, no_text, short_of_bytes;
  const Vector<float> one = Vector<float>::Ones(1);
  good.add("x", one);
  reserved.add("__metadata__", one);
  twice.add("x", one);
  twice.add("x", one);
  no_text.add("\xFF", one);
  short_of_bytes.add({"x", Dtype::f32, {2}, std::as_bytes(std::span(one.data(), 1)), {}});
  write_safetensors(folder / "x", good);
  const std::string before = test::read(folder / "x");
  for (const TensorList* list : {&reserved, &twice, &no_text, &short_of_bytes}) {
    CHECK_THROWS_AS(write_safetensors(folder / "x", *list), ArgumentError);
  }
  CHECK(test::contains(test::message_of<ArgumentError>([&] {
                         write_safetensors(folder / "x", good, {{"by", "\xFF"}});
                       }),
                       "the metadata of 'by' is not UTF-8"));
  CHECK(test::read(folder / "x") == before);
  CHECK_THROWS_AS(write_safetensors(folder / "none" / "x", good), FileError);
  CHECK(std::distance(fs::directory_iterator(folder), {}) == 1);
}

TEST_CASE("of a file of 4 GiB only the pages of the tensor that is used are read") {
  const fs::path folder = test::fresh_folder("safetensors_large");
  constexpr std::size_t large = std::size_t{4} << 30, small = std::size_t{1} << 20;
  std::string header = "{\"large\":{\"dtype\":\"U8\",\"shape\":[" + std::to_string(large) +
                       "],\"data_offsets\":[0," + std::to_string(large) +
                       "]},\"small\":{\"dtype\":\"U8\",\"shape\":[" + std::to_string(small) +
                       "],\"data_offsets\":[" + std::to_string(large) + "," +
                       std::to_string(large + small) + "]}}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::ofstream(folder / "x", std::ios::binary)
      << static_cast<char>(header.size()) << std::string(7, '\0') << header;
  fs::resize_file(folder / "x", 8 + header.size() + large + small);  // a hole: nothing on the disk

  const std::size_t before = resident();
  const Safetensors file(folder / "x");
  const TensorView tensor = file.at("small");
  std::size_t sum = 0;
  for (const std::byte byte : tensor.bytes) {
    sum += std::to_integer<std::size_t>(byte);
  }
  CHECK(sum == 0);
  CHECK(resident() < before + 4 * small);
  fs::remove(folder / "x");
}

TEST_CASE("a header of 100 MB is read, one byte more is refused before it is looked at") {
  const fs::path folder = test::fresh_folder("safetensors_header_size");
  const auto put = [&](std::uint64_t size) {
    std::string head(8, '\0');
    std::memcpy(head.data(), &size, 8);
    std::string text = "{}" + std::string(size - 2, ' ');
    test::write(folder / "x", head + text);
  };
  put(100'000'000);
  CHECK(Safetensors(folder / "x").size() == 0);
  put(100'000'001);
  const std::size_t before = resident();
  CHECK(test::contains(test::message_of<SafetensorsError>([&] { Safetensors(folder / "x"); }),
                       "100000001"));
  CHECK(resident() < before + (std::size_t{16} << 20));  // where the header has 100 MB
  fs::remove(folder / "x");
}
