#include "files.hpp"

#include <unistd.h>

#include <loraplus/io/atomic_file.hpp>
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
  loraplus::AtomicFile out(file);
  out.write(content);
  out.commit();
}

}  // namespace finetune
