// SPDX-License-Identifier: MIT
//
// The names and locks of what is being written, by which what a killed program has left is known.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace loraplus::inline v0_1::detail {

/// What the system calls an open file; below 0: none. Closed by its end.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept { std::swap(value_, other.value_); }
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }

  int value() const { return value_; }

 private:
  int value_ = -1;
};

/// A lock on a file or folder; not through a link, so for a folder that may be one on "folder/.".
/// The system ends it with the object, or with the program, however that comes about. Where a file
/// system has no locks, none is held.
class Lock {
 public:
  enum class Wait { no, yes };  ///< for another who holds it

  Lock() = default;
  Lock(const std::filesystem::path& path, Wait wait)
      : file_(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)) {
    if (file_.value() < 0) return;
    int result = 0;
    do {
      result = ::flock(file_.value(), LOCK_EX | (wait == Wait::no ? LOCK_NB : 0));
    } while (result != 0 && errno == EINTR);
    is_held_ = result == 0;
    is_refused_ = result != 0 && errno == EWOULDBLOCK;
  }

  bool is_held() const { return is_held_; }
  bool is_refused() const { return is_refused_; }  ///< another holds it

 private:
  Descriptor file_;
  bool is_held_ = false;
  bool is_refused_ = false;
};

/// A name for what is to become `name`, and has been given to nothing else: ".x.<process>.<n>.part"
/// for "x". Who makes it holds a lock on it until it has its own name.
inline std::string part_name(const std::string& name) {
  static std::atomic<unsigned> count = 0;
  return '.' + name + '.' + std::to_string(::getpid()) + '.' + std::to_string(count++) + ".part";
}

/// Whether part_name can have given this for `name`.
inline bool is_part_of(std::string_view name, std::string_view found) {
  const std::size_t rest = name.size() + 2;  // behind ".x."
  if (found.size() < rest + 5 || found.substr(1, name.size() + 1) != std::string(name) + '.') {
    return false;
  }
  const std::string_view numbers = found.substr(rest, found.size() - rest - 5);
  return found[0] == '.' && found.ends_with(".part") &&
         std::count(numbers.begin(), numbers.end(), '.') == 1 &&
         numbers.find_first_not_of("0123456789.") == std::string_view::npos;
}

/// Removes the parts of `name` that programs which were killed have left in the folder. One whose
/// writer is at work is locked. What cannot be looked at or removed stays.
inline void remove_abandoned_parts(const std::filesystem::path& folder, const std::string& name) {
  std::error_code error;
  std::filesystem::directory_iterator entries(folder, error);
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    if (!is_part_of(name, entries->path().filename().string())) continue;
    std::error_code ignored;
    const Lock lock(entries->path(), Lock::Wait::no);
    if (lock.is_held()) std::filesystem::remove_all(entries->path(), ignored);
  }
}

/// Makes something under a part's name, and locks it: again under another if that is taken, or
/// another program took what was just made for abandoned.
/// @param make whether the path is made, false if there is something already
template <typename Make>
std::filesystem::path make_part(const std::filesystem::path& folder, const std::string& name,
                                Lock& lock, Make&& make) {
  remove_abandoned_parts(folder.empty() ? "." : folder, name);
  for (;;) {
    const std::filesystem::path part = folder / part_name(name);
    if (!make(part)) continue;
    lock = Lock(part, Lock::Wait::no);
    std::error_code ignored;
    if (!lock.is_refused() && std::filesystem::exists(part, ignored)) return part;
  }
}

}  // namespace loraplus::detail
