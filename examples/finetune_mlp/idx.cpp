#include "idx.hpp"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <string>

namespace finetune {
namespace {

constexpr std::uint32_t magic_images = 0x00000803;  // unsigned bytes, three dimensions
constexpr std::uint32_t magic_labels = 0x00000801;  // unsigned bytes, one dimension

/// So large that no real file reaches it: a damaged header must not ask for all memory.
constexpr std::uint32_t most_bytes = 1U << 30U;

std::string hex(std::uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", static_cast<unsigned>(value));
  return text;
}

/// A file read from front to back; zlib sees by itself whether it is gzipped.
class Reader {
 public:
  explicit Reader(const std::filesystem::path& file)
      : name_(file.string()), file_(gzopen(name_.c_str(), "rb"), gzclose) {
    if (!file_) fail(std::string("cannot be opened: ") + std::strerror(errno));
    gzbuffer(file_.get(), 1U << 17U);
  }

  /// Reads as many bytes as `bytes` has. @param what they are, for the error message
  void read(std::span<std::uint8_t> bytes, const std::string& what) {
    std::size_t done = 0;
    while (done < bytes.size()) {
      const std::size_t wanted = std::min<std::size_t>(bytes.size() - done, 1U << 24U);
      const int got = gzread(file_.get(), bytes.data() + done, static_cast<unsigned>(wanted));
      if (got < 0) fail("is damaged: " + zlib_error());
      if (got == 0) {
        fail("is truncated: " + what + " should take " + std::to_string(bytes.size()) +
             " bytes, found " + std::to_string(done));
      }
      done += static_cast<std::size_t>(got);
    }
  }

  /// A big-endian number.
  std::uint32_t read_number() {
    std::uint8_t bytes[4];
    read(bytes, "a number of the header");
    return (std::uint32_t{bytes[0]} << 24U) | (std::uint32_t{bytes[1]} << 16U) |
           (std::uint32_t{bytes[2]} << 8U) | std::uint32_t{bytes[3]};
  }

  void require_magic(std::uint32_t expected, const char* kind) {
    const std::uint32_t magic = read_number();
    if (magic != expected) {
      fail(std::string("is no IDX file of ") + kind + ": it should begin with " + hex(expected) +
           ", found " + hex(magic));
    }
  }

  void require_end() {
    std::uint8_t byte = 0;
    const int got = gzread(file_.get(), &byte, 1);
    if (got < 0) fail("is damaged: " + zlib_error());
    if (got > 0) fail("has more data than its header says");
  }

  [[noreturn]] void fail(const std::string& reason) const { throw IdxError(name_ + ' ' + reason); }

 private:
  /// What zlib says, without the file's name, which it puts first.
  std::string zlib_error() const {
    int code = 0;
    const std::string text = gzerror(file_.get(), &code);
    return code == Z_ERRNO ? std::strerror(errno) : text.substr(text.rfind(": ") + 2);
  }

  std::string name_;
  std::unique_ptr<gzFile_s, int (*)(gzFile)> file_;
};

}  // namespace

IdxImages read_idx_images(const std::filesystem::path& file) {
  Reader reader(file);
  reader.require_magic(magic_images, "images");
  const std::uint32_t count = reader.read_number();
  const std::uint32_t rows = reader.read_number();
  const std::uint32_t cols = reader.read_number();
  const std::string shape = std::to_string(count) + " images of " + std::to_string(rows) + " x " +
                            std::to_string(cols) + " pixels";
  const std::uint64_t image_bytes = std::uint64_t{rows} * cols;  // below 2^64 as both are 32 bits
  if (count == 0 || image_bytes == 0 || image_bytes > most_bytes / count) {
    reader.fail("has an implausible header: " + shape);
  }
  IdxImages images{static_cast<Eigen::Index>(rows), static_cast<Eigen::Index>(cols),
                   Bytes(static_cast<Eigen::Index>(image_bytes), static_cast<Eigen::Index>(count))};
  reader.read({images.pixels.data(), static_cast<std::size_t>(images.pixels.size())}, shape);
  reader.require_end();
  return images;
}

std::vector<std::uint8_t> read_idx_labels(const std::filesystem::path& file) {
  Reader reader(file);
  reader.require_magic(magic_labels, "labels");
  const std::uint32_t count = reader.read_number();
  const std::string shape = std::to_string(count) + " labels";
  if (count == 0 || count > most_bytes) reader.fail("has an implausible header: " + shape);
  std::vector<std::uint8_t> labels(count);
  reader.read(labels, shape);
  reader.require_end();
  return labels;
}

}  // namespace finetune
