// Small IDX data sets.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <filesystem>
#include <loraplus/core/random.hpp>
#include <string>

#include "support/files.hpp"

namespace test {

inline constexpr int image_side = 8;

inline std::string big_endian(std::uint32_t value) {
  std::string bytes;
  for (const unsigned shift : {24U, 16U, 8U, 0U}) {
    bytes += static_cast<char>((value >> shift) & 0xFFU);
  }
  return bytes;
}

inline void write_gzipped(const std::filesystem::path& file, const std::string& content) {
  const gzFile stream = gzopen(file.c_str(), "wb");
  gzwrite(stream, content.data(), static_cast<unsigned>(content.size()));
  gzclose(stream);
}

/// Images whose class is the brightest of their first ten pixels, as an IDX file.
inline std::string idx_images(int count) {
  std::string bytes = big_endian(0x803) + big_endian(static_cast<std::uint32_t>(count)) +
                      big_endian(image_side) + big_endian(image_side);
  std::mt19937_64 generator{1};
  for (int image = 0; image < count; ++image) {
    for (int pixel = 0; pixel < image_side * image_side; ++pixel) {
      const bool bright = pixel == image % 10;
      bytes += static_cast<char>(bright ? 255 : loraplus::uniform_index(generator, 100));
    }
  }
  return bytes;
}

inline std::string idx_labels(int count) {
  std::string bytes = big_endian(0x801) + big_endian(static_cast<std::uint32_t>(count));
  for (int image = 0; image < count; ++image) {
    bytes += static_cast<char>(image % 10);
  }
  return bytes;
}

/// Makes the folder anew with a small data set in it, half of its files gzipped.
inline void make_idx_data(const std::filesystem::path& folder) {
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  write_gzipped(folder / "train-images-idx3-ubyte.gz", idx_images(360));
  write(folder / "train-labels-idx1-ubyte", idx_labels(360));
  write(folder / "t10k-images-idx3-ubyte", idx_images(60));
  write_gzipped(folder / "t10k-labels-idx1-ubyte.gz", idx_labels(60));
}

}  // namespace test
