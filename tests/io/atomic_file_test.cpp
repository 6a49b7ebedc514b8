#include <sys/stat.h>

#include <loraplus/core/random.hpp>
#include <loraplus/io/atomic_file.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/killed.hpp"

using loraplus::AtomicFile;
using loraplus::FileError;

namespace {

namespace fs = std::filesystem;

void put(const fs::path& file, std::string_view content) {
  AtomicFile out(file);
  out.write(content);
  out.commit();
}

std::ptrdiff_t count_files(const fs::path& folder) {
  return std::distance(fs::directory_iterator(folder), {});
}

}  // namespace

TEST_CASE("a file is there once it is committed, and nothing else ever") {
  const fs::path folder = test::fresh_folder("atomic_file");
  put(folder / "x", "old");
  CHECK(test::read(folder / "x") == "old");
  {
    AtomicFile out(folder / "x");
    out.write("new, but not committed");
    CHECK(test::read(folder / "x") == "old");
    CHECK(count_files(folder) == 2);
  }
  CHECK(test::read(folder / "x") == "old");
  CHECK(count_files(folder) == 1);
  put(folder / "x", "new");
  CHECK(test::read(folder / "x") == "new");
  CHECK(count_files(folder) == 1);

  AtomicFile one(folder / "y"), two(folder / "y");  // neither disturbs the other
  one.write("one");
  two.write("two");
  two.commit();
  one.commit();
  CHECK(test::read(folder / "y") == "one");
}

TEST_CASE("a file that was made may be read by whom the mask of the process says") {
  const fs::path folder = test::fresh_folder("atomic_file_mode");
  const mode_t before = ::umask(022);
  put(folder / "x", "");
  ::umask(before);
  CHECK((fs::status(folder / "x").permissions() & fs::perms::all) ==
        (fs::perms::owner_read | fs::perms::owner_write | fs::perms::group_read |
         fs::perms::others_read));
}

TEST_CASE("a folder that is not there is named") {
  const fs::path folder = test::fresh_folder("atomic_file_error");
  CHECK(test::contains(test::message_of<FileError>([&] { AtomicFile(folder / "none" / "x"); }),
                       "cannot write " + (folder / "none" / "x").string() + ": No such file"));
  fs::create_directory(folder / "taken");
  CHECK(test::contains(test::message_of<FileError>([&] { put(folder / "taken", "x"); }), "taken"));
  CHECK(count_files(folder) == 1);
}

TEST_CASE("killed at any moment, the old file or the new one is there, whole") {
  const fs::path folder = test::fresh_folder("atomic_file_killed");
  const auto version = [](int number) {
    return std::to_string(number) + std::string(200'000, static_cast<char>('a' + number % 26));
  };
  put(folder / "x", version(0));
  const auto write = [&] {
    for (int number = 0;; ++number) {
      put(folder / "x", version(number));
    }
  };
  const int written = test::killed_at_any_moment(std::mt19937_64{11}, write, [&] {
    const std::string content = test::read(folder / "x");
    const int number = std::stoi(content);
    CHECK(content == version(number));
    return number > 0;
  });
  CHECK(written > 0);
  put(folder / "x", version(0));
  CHECK(count_files(folder) == 1);  // what the killed ones left is gone
}

TEST_CASE("what a killed program left of a file goes when the file is written again") {
  const fs::path folder = test::fresh_folder("atomic_file_left");
  test::write(folder / ".x.1.0.part", "left");
  test::write(folder / ".y.1.0.part", "left of another");
  test::write(folder / ".x.notes.part", "a user's");
  put(folder / "x", "new");
  CHECK_FALSE(fs::exists(folder / ".x.1.0.part"));
  CHECK(count_files(folder) == 3);
}

TEST_CASE("an error in a process that is to be killed is an error of its test") {
  const auto fails = [] { throw FileError("as is to be tested"); };
  CHECK_THROWS_AS(test::ends_before_kill(50, fails), std::runtime_error);
}
