// SPDX-License-Identifier: MIT
#pragma once

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <loraplus/io/atomic_file.hpp>

namespace loraplus::inline v0_1 {
namespace detail {

/// Holds files that replace those of the folder around it, and are the ones that count.
inline constexpr const char* next_folder = ".next";

/// Whether a file of `.next` counts: not if the one in its place is younger, for then a program
/// that knows nothing of `.next`, as Python, has written there after the one that was killed.
inline bool counts(const std::filesystem::path& next, const std::filesystem::path& place) {
  std::error_code no_next, no_place;  // who opens a file is told
  const auto next_time = std::filesystem::last_write_time(next, no_next);
  const auto place_time = std::filesystem::last_write_time(place, no_place);
  return !no_next && (no_place || next_time >= place_time);
}

/// Moves the files of `.next`, if there is one, to their places, those that count. Only who holds
/// the lock on the folder does so: another could move the next replacement apart.
/// @throws std::filesystem::filesystem_error
inline void finish_replacement(const std::filesystem::path& folder) {
  const std::filesystem::path next = folder / next_folder;
  if (!std::filesystem::exists(next)) return;
  for (const auto& entry : std::filesystem::directory_iterator(next)) {
    const std::filesystem::path place = folder / entry.path().filename();
    if (counts(entry.path(), place)) {
      std::filesystem::rename(entry.path(), place);
    } else {
      std::filesystem::remove(entry.path());
    }
  }
  sync_folder(folder);
  std::filesystem::remove(next);
}

/// The same for who only reads: nothing is done if a program is at it, or the folder cannot be
/// written to. current_file() finds the files either way; what knows nothing of `.next` does not.
inline void try_finish_replacement(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (!std::filesystem::exists(folder / next_folder, ignored)) return;
  const Lock lock(folder / ".", Lock::Wait::no);
  if (!lock.is_held()) return;
  try {
    finish_replacement(folder);
  } catch (const std::filesystem::filesystem_error&) {  // it stays as it was
  }
}

}  // namespace detail

/// Files that belong together, replaced together in a folder that may hold others. They are written
/// into a folder of their own; commit() names it ".next", and from that moment they are the ones
/// that count: current_file() finds them there until they are moved to their places, which commit()
/// does at once, and if the program was killed between, the next commit() or open_together().
class AtomicFolder {
 public:
  /// Makes the folder if it is not there.
  /// @throws FileError if it cannot be written to
  explicit AtomicFolder(std::filesystem::path folder) : folder_(std::move(folder)) {
    guarded([&] {
      std::filesystem::create_directories(folder_);
      part_ = detail::make_part(folder_, "next", lock_, [](const std::filesystem::path& part) {
        return std::filesystem::create_directory(part);
      });
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

  /// Waits for another program that replaces files of this folder.
  /// @throws FileError; then the old files are as they were, or all of the new ones count
  void commit() {
    guarded([&] {
      const detail::Lock lock(folder_ / ".", detail::Lock::Wait::yes);
      detail::finish_replacement(folder_);  // of a program that was killed
      for (const auto& entry : std::filesystem::directory_iterator(part_)) {
        // The last to commit counts, whoever wrote first.
        std::filesystem::last_write_time(entry.path(),
                                         std::filesystem::file_time_type::clock::now());
      }
      std::filesystem::rename(part_, folder_ / detail::next_folder);
      part_.clear();
      lock_ = {};
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
  detail::Lock lock_;  // on the part, as long as it is one
};

/// Where the file of this name is that counts, in a folder that AtomicFolder writes.
inline std::filesystem::path current_file(const std::filesystem::path& folder,
                                          const std::string& name) {
  const std::filesystem::path next = folder / detail::next_folder / name;
  return detail::counts(next, folder / name) ? next : folder / name;
}

namespace detail {

/// A file as it was when it was looked for. It is held, so that no later one gets its number.
struct FoundFile {
  std::filesystem::path path;
  Descriptor held;
  ino_t number = 0;  // 0: it was not there

  bool operator==(const FoundFile& other) const {
    return path == other.path && number == other.number;
  }
};

inline FoundFile find_current(const std::filesystem::path& folder, const std::string& name) {
  FoundFile found;
  found.path = current_file(folder, name);
  found.held = Descriptor(::open(found.path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  struct stat facts {};
  if (::fstat(found.held.value(), &facts) == 0) found.number = facts.st_ino;
  return found;
}

}  // namespace detail

/// Opens files that AtomicFolder replaces together so that all are of one replacement: it looks
/// where they are, opens them, and looks again. Of a folder that no program is writing to it also
/// finishes a replacement that was cut short, if it may.
/// @param open called with the path of each file, in their order; again if they were replaced
/// meanwhile
/// @return what `open` returns @throws what `open` throws; FileError if they are replaced each time
template <std::size_t N, typename Open>
auto open_together(const std::filesystem::path& folder, const std::array<std::string, N>& names,
                   Open&& open) {
  const auto find_all = [&] {
    std::array<detail::FoundFile, N> found;
    std::transform(names.begin(), names.end(), found.begin(),
                   [&](const std::string& name) { return detail::find_current(folder, name); });
    return found;
  };
  detail::try_finish_replacement(folder);
  for (int attempt = 0; attempt < 100; ++attempt) {
    const auto found = find_all();
    try {
      auto opened = std::apply([&](const auto&... file) { return open(file.path...); }, found);
      if (find_all() == found) return opened;
    } catch (const FileError&) {  // no error of the file, if it was moved before it was opened
      if (find_all() == found) throw;
    }
  }
  throw FileError("cannot read " + folder.string() + ": its files are being replaced all the time");
}

}  // namespace loraplus
