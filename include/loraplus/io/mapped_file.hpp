// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <loraplus/io/file_error.hpp>
#include <span>
#include <string>
#include <utility>

namespace loraplus::inline v0_1 {

/// A file seen as memory: opening reads nothing, using a part reads that part. The file must not be
/// made shorter while it is mapped.
class MappedFile {
 public:
  /// @throws FileError if it cannot be opened, or is no file
  explicit MappedFile(const std::filesystem::path& file) {
    // not to wait for whoever writes into a pipe
    const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) fail(file, std::strerror(errno));
    struct stat facts {};
    const bool known = ::fstat(descriptor, &facts) == 0;
    if (!known || !S_ISREG(facts.st_mode)) {
      const std::string reason = known ? "it is no file" : std::strerror(errno);
      ::close(descriptor);
      fail(file, reason);
    }
    size_ = static_cast<std::size_t>(facts.st_size);
    if (size_ > 0) data_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    const int error = errno;
    ::close(descriptor);
    if (data_ == MAP_FAILED) {
      data_ = nullptr;
      fail(file, std::strerror(error));
    }
  }

  /// The other one is empty afterwards.
  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  /// The files change places.
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }

  /// The whole file.
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }

 private:
  [[noreturn]] static void fail(const std::filesystem::path& file, const std::string& reason) {
    throw FileError("cannot read " + file.string() + ": " + reason);
  }

  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace loraplus
