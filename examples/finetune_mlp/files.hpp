#pragma once

#include <filesystem>
#include <string>

namespace finetune {

/// Makes the folder, and those above it, if it is not there.
/// @throws std::runtime_error if it cannot be made, or nothing can be written there
void prepare_folder(const std::filesystem::path& folder);

/// Writes a file as a whole or not at all: a file that is half written never has this name.
/// @throws std::runtime_error that names the file
void write_atomically(const std::filesystem::path& file, const std::string& content);

}  // namespace finetune
