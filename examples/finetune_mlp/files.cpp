#include "files.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <stdexcept>

namespace finetune {

namespace fs = std::filesystem;

void prepare_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!fs::is_directory(folder)) {
    throw std::runtime_error("the folder " + folder.string() +
                             " cannot be made: " + (error ? error.message() : "a file is there"));
  }
  if (access(folder.c_str(), W_OK) != 0) {
    throw std::runtime_error("the folder " + folder.string() + " cannot be written to");
  }
}

void write_atomically(const fs::path& file, const std::string& content) {
  const fs::path unfinished = file.string() + ".tmp";
  std::ofstream stream(unfinished, std::ios::binary);
  stream << content;
  stream.close();
  const int reason = errno;
  std::error_code error;
  if (stream) fs::rename(unfinished, file, error);
  if (!stream || error) {
    fs::remove(unfinished, error);
    throw std::runtime_error("cannot write " + file.string() + ": " + std::strerror(reason));
  }
}

}  // namespace finetune
