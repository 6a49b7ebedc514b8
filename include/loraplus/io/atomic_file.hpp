// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <loraplus/io/file_error.hpp>
#include <loraplus/io/part.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace loraplus::inline v0_1 {
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
/// begins with a dot and ends with ".part", until this file is written the next time; if commit()
/// is not called, neither.
class AtomicFile {
 public:
  /// @throws FileError if the folder cannot be written to
  explicit AtomicFile(std::filesystem::path file) : file_(std::move(file)) {
    part_ = detail::make_part(file_.parent_path(), file_.filename().string(), lock_,
                              [&](const std::filesystem::path& part) { return open(part); });
  }

  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  ~AtomicFile() {
    if (opened_.value() >= 0) ::unlink(part_.c_str());
  }

  /// @throws FileError
  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(opened_.value(), bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("cannot write");
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }
  /// The bytes of a text. @throws FileError
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  /// @throws FileError; then the old file is as it was
  void commit() {
    if (::fsync(opened_.value()) != 0) fail("cannot write");
    if (::rename(part_.c_str(), file_.c_str()) != 0) fail("cannot name");
    opened_ = {};
    lock_ = {};
    detail::sync_folder(file_.has_parent_path() ? file_.parent_path() : ".");
  }

 private:
  /// @return whether there was nothing of this name
  bool open(const std::filesystem::path& part) {
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
    opened_ = detail::Descriptor(::open(part.c_str(), flags, 0666));
    if (opened_.value() < 0 && errno != EEXIST) fail("cannot write");
    return opened_.value() >= 0;
  }

  [[noreturn]] void fail(const char* what) const {
    throw FileError(std::string(what) + ' ' + file_.string() + ": " + std::strerror(errno));
  }

  std::filesystem::path file_;
  std::filesystem::path part_;
  detail::Descriptor opened_;
  detail::Lock lock_;  // on the part, as long as it is one
};

}  // namespace loraplus
