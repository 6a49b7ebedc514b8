// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <loraplus/io/file_error.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace loraplus {
namespace detail {

/// Has the names of a folder on the disk; where that cannot be asked for, they are there a little
/// later.
inline void sync_folder(const std::filesystem::path& folder) {
  const int opened = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (opened < 0) return;
  ::fsync(opened);
  ::close(opened);
}

}  // namespace detail

/// A file that is written as a whole or not at all. What is written goes to another name in the
/// same folder; commit() has it on the disk and gives it its name, in place of the file that had
/// it. If the program is killed before that, the old file is there, and beside it one whose name
/// begins with a dot and ends with ".part"; if commit() is not called, neither.
class AtomicFile {
 public:
  /// @throws FileError if the folder cannot be written to
  explicit AtomicFile(std::filesystem::path file) : file_(std::move(file)) {
    static std::atomic<unsigned> count = 0;
    do {
      part_ = file_.parent_path() /
              ('.' + file_.filename().string() + '.' + std::to_string(::getpid()) + '.' +
               std::to_string(count++) + ".part");
      descriptor_ = ::open(part_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (descriptor_ < 0 && errno == EEXIST);
    if (descriptor_ < 0) fail("cannot write");
  }

  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  ~AtomicFile() {
    if (descriptor_ < 0) return;
    ::close(descriptor_);
    ::unlink(part_.c_str());
  }

  /// @throws FileError
  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("cannot write");
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  /// @throws FileError; then the old file is as it was
  void commit() {
    if (::fsync(descriptor_) != 0) fail("cannot write");
    if (::rename(part_.c_str(), file_.c_str()) != 0) fail("cannot name");
    ::close(std::exchange(descriptor_, -1));
    detail::sync_folder(file_.has_parent_path() ? file_.parent_path() : ".");
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw FileError(std::string(what) + ' ' + file_.string() + ": " + std::strerror(errno));
  }

  std::filesystem::path file_;
  std::filesystem::path part_;
  int descriptor_ = -1;
};

}  // namespace loraplus
