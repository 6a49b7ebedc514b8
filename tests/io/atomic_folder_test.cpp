#include <loraplus/core/random.hpp>
#include <loraplus/io/atomic_folder.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/killed.hpp"

using loraplus::AtomicFolder;
using loraplus::current_file;
using loraplus::FileError;

namespace {

namespace fs = std::filesystem;

void put_both(const fs::path& folder, const std::string& content) {
  AtomicFolder files(folder);
  test::write(files.file("a"), content + " of a");
  test::write(files.file("b"), content + " of b");
  files.commit();
}

}  // namespace

TEST_CASE("files of a folder are replaced together, and others stay") {
  const fs::path folder = test::fresh_folder("atomic_folder");
  test::write(folder / "c", "another");
  put_both(folder / "made" / "anew", "x");
  CHECK(test::read(folder / "made" / "anew" / "b") == "x of b");
  put_both(folder, "old");
  {
    AtomicFolder files(folder);
    test::write(files.file("a"), "not committed");
  }
  CHECK(test::read(folder / "a") == "old of a");
  put_both(folder, "new");
  CHECK(test::read(folder / "a") == "new of a");
  CHECK(test::read(folder / "b") == "new of b");
  CHECK(test::read(folder / "c") == "another");
  CHECK(current_file(folder, "a") == folder / "a");
  CHECK(std::distance(fs::directory_iterator(folder), {}) == 4);
}

TEST_CASE("what was killed between its naming and its moves is read, and then finished") {
  const fs::path folder = test::fresh_folder("atomic_folder_moves");
  put_both(folder, "old");
  fs::create_directory(folder / ".next");
  test::write(folder / ".next" / "b", "new of b");  // a was moved already
  test::write(folder / "a", "new of a");
  CHECK(test::read(current_file(folder, "a")) == "new of a");
  CHECK(test::read(current_file(folder, "b")) == "new of b");
  const AtomicFolder files(folder);
  CHECK(test::read(folder / "b") == "new of b");
  CHECK_FALSE(fs::exists(folder / ".next"));
}

TEST_CASE("a folder that cannot be written to is named") {
  const fs::path folder = test::fresh_folder("atomic_folder_error");
  test::write(folder / "file", "");
  CHECK(test::contains(test::message_of<FileError>([&] { AtomicFolder(folder / "file"); }),
                       "cannot write to " + (folder / "file").string()));
}
