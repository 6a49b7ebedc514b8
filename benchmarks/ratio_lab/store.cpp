#include "store.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

namespace lab {
namespace {

namespace fs = std::filesystem;

constexpr int format_version = 1;

std::string read_file(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  std::ostringstream content;
  content << stream.rdbuf();
  if (!stream) throw StoreError("cannot read " + file.string() + ": " + std::strerror(errno));
  return content.str();
}

/// A line's JSON; null if it is none.
Json parse(std::string_view line) {
  return Json::parse(line.begin(), line.end(), nullptr, false);
}

}  // namespace

Descriptor::~Descriptor() {
  if (is_open()) ::close(value_);
}

Store::Store(fs::path file, const Json& settings, const Json& made_by) : file_(std::move(file)) {
  open();
  const std::size_t whole = load();
  if (::ftruncate(descriptor_.get(), static_cast<off_t>(whole)) != 0) {
    throw StoreError("cannot write " + file_.string() + ": " + std::strerror(errno));
  }
  if (whole == 0) {
    settings_ = settings;
    made_by_ = made_by;
    write_line({{"ratio_lab", format_version}, {"settings", settings}, {"made_by", made_by}});
  }
  require_settings(settings);
}

Store Store::read(const fs::path& file) {
  if (!fs::exists(file)) throw StoreError("there is no " + file.string());
  Store store(file);
  if (store.load() == 0) throw StoreError(file.string() + " is empty");
  return store;
}

Store::Store(Store&& other) noexcept
    : file_(std::move(other.file_)),
      descriptor_(std::move(other.descriptor_)),
      settings_(std::move(other.settings_)),
      made_by_(std::move(other.made_by_)),
      notice_(std::move(other.notice_)),
      results_(std::move(other.results_)) {}

void Store::open() {
  descriptor_ = Descriptor(::open(file_.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0644));
  if (!descriptor_.is_open()) {
    throw StoreError("cannot write " + file_.string() + ": " + std::strerror(errno));
  }
  if (::flock(descriptor_.get(), LOCK_EX | LOCK_NB) != 0) {
    throw StoreError(file_.string() + " is in use by another run");
  }
}

std::size_t Store::load() {
  const std::string content = read_file(file_);
  std::size_t begin = 0;
  for (int number = 1; begin < content.size(); ++number) {
    const std::size_t end = content.find('\n', begin);
    const std::string where = file_.string() + ", line " + std::to_string(number);
    if (end == std::string::npos) {
      notice_ = where + " was cut off in its middle, as by a kill; what it told is done again";
      break;
    }
    const Json line = parse(std::string_view(content).substr(begin, end - begin));
    if (number == 1) {
      if (!line.is_object() || !line.contains("ratio_lab") || !line.contains("settings")) {
        throw StoreError(where + ": not a results file of ratio_lab");
      }
      if (line["ratio_lab"] != format_version) {
        throw StoreError(where + ": made by another version of ratio_lab, with the format " +
                         line["ratio_lab"].dump() + ", this one has " +
                         std::to_string(format_version));
      }
      settings_ = line["settings"];
      made_by_ = line.value("made_by", Json::object());
    } else {
      if (!line.is_object() || !line.contains("key") || !line["key"].is_string() ||
          !line.contains("result")) {
        throw StoreError(where + " is damaged: not a trial");
      }
      results_[line["key"]] = line["result"];
    }
    begin = end + 1;
  }
  return begin;
}

void Store::require_settings(const Json& expected) const {
  for (const auto& [name, value] : expected.items()) {
    const Json found = settings_.value(name, Json());
    if (found != value) {
      throw StoreError(file_.string() + " was made with " + name + " = " + found.dump() +
                       ", now it is " + value.dump() + ": take another --out, or the old settings");
    }
  }
  if (settings_.size() != expected.size()) {
    throw StoreError(file_.string() + " was made with other settings: " + settings_.dump());
  }
}

void Store::write_line(const Json& line) const {
  const std::string text = line.dump() + '\n';
  std::size_t written = 0;
  while (written < text.size()) {
    const ssize_t count = ::write(descriptor_.get(), text.data() + written, text.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw StoreError("cannot write " + file_.string() + ": " + std::strerror(errno));
    written += static_cast<std::size_t>(count);
  }
}

const Json* Store::find(const std::string& key) const {
  const auto found = results_.find(key);
  return found == results_.end() ? nullptr : &found->second;
}

void Store::append(const std::string& key, const Json& result) {
  const std::lock_guard lock(mutex_);
  write_line({{"key", key}, {"result", result}});
  results_[key] = result;
}

}  // namespace lab
