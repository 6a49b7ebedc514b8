// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/io/atomic_file.hpp>
#include <system_error>

namespace loraplus {
namespace detail {

/// Holds files that replace those of the folder around it, and are the ones that count.
inline constexpr const char* next_folder = ".next";

/// Moves the files of `.next`, if there is one, to their places.
inline void finish_replacement(const std::filesystem::path& folder) {
  const std::filesystem::path next = folder / next_folder;
  if (!std::filesystem::exists(next)) return;
  for (const auto& entry : std::filesystem::directory_iterator(next)) {
    std::filesystem::rename(entry.path(), folder / entry.path().filename());
  }
  sync_folder(folder);
  std::filesystem::remove_all(next);
}

}  // namespace detail

/// Files that belong together, replaced together in a folder that may hold others. They are written
/// into a folder of their own; commit() names it ".next", and from that moment they are the ones
/// that count: current_file() finds them there until they are moved to their places, which commit()
/// does at once, and the next AtomicFolder if the program was killed between.
class AtomicFolder {
 public:
  /// Makes the folder if it is not there.
  /// @throws FileError if it cannot be written to
  explicit AtomicFolder(std::filesystem::path folder) : folder_(std::move(folder)) {
    guarded([&] {
      static std::atomic<unsigned> count = 0;
      std::filesystem::create_directories(folder_);
      detail::finish_replacement(folder_);
      part_ = folder_ /
              (".next." + std::to_string(::getpid()) + '.' + std::to_string(count++) + ".part");
      std::filesystem::remove_all(part_);  // of a process that had the same number, and was killed
      std::filesystem::create_directory(part_);
    });
  }

  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  ~AtomicFolder() {
    std::error_code ignored;
    if (!part_.empty()) std::filesystem::remove_all(part_, ignored);
  }

  /// Where to write the file of this name. It must be on the disk when commit() is called.
  std::filesystem::path file(const std::string& name) const { return part_ / name; }

  /// @throws FileError; then the old files are as they were, or all of the new ones count
  void commit() {
    guarded([&] {
      std::filesystem::rename(part_, folder_ / detail::next_folder);
      part_.clear();
      detail::sync_folder(folder_);
      detail::finish_replacement(folder_);
    });
  }

 private:
  template <typename Action>
  void guarded(Action&& action) const {
    try {
      action();
    } catch (const std::filesystem::filesystem_error& error) {
      throw FileError("cannot write to " + folder_.string() + ": " + error.code().message());
    }
  }

  std::filesystem::path folder_;
  std::filesystem::path part_;
};

/// Where the file of this name is that counts, in a folder that AtomicFolder writes.
inline std::filesystem::path current_file(const std::filesystem::path& folder,
                                          const std::string& name) {
  const std::filesystem::path next = folder / detail::next_folder / name;
  return std::filesystem::exists(next) ? next : folder / name;
}

}  // namespace loraplus
