#include <loraplus/core/random.hpp>
#include <loraplus/io/atomic_folder.hpp>
#include <thread>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

using loraplus::AtomicFolder;
using loraplus::current_file;
using loraplus::FileError;
using loraplus::open_together;

namespace {

namespace fs = std::filesystem;

void put_both(const fs::path& folder, const std::string& content) {
  AtomicFolder files(folder);
  test::write(files.file("a"), content + " of a");
  test::write(files.file("b"), content + " of b");
  files.commit();
}

const std::array<std::string, 2> both = {"a", "b"};

/// What both files say of the version they are of. @throws FileError if one is not there
std::pair<std::string, std::string> read_both(const fs::path& a, const fs::path& b) {
  const auto version = [](const fs::path& file) {
    const std::string content = test::read(file);
    if (content.empty()) throw FileError("cannot read " + file.string());
    return content.substr(0, content.find(' '));
  };
  std::string of_a = version(a);
  return {std::move(of_a), version(b)};
}

/// A folder whose replacement was cut short: `a` is at its place, `b` is not.
fs::path cut_short(const std::string& name) {
  const fs::path folder = test::fresh_folder(name);
  put_both(folder, "old");
  fs::create_directory(folder / ".next");
  test::write(folder / ".next" / "b", "new of b");
  test::write(folder / "a", "new of a");
  return folder;
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
  const fs::path folder = cut_short("atomic_folder_moves");
  CHECK(test::read(current_file(folder, "a")) == "new of a");
  CHECK(test::read(current_file(folder, "b")) == "new of b");
  fs::create_directory_symlink(folder, folder.string() + "_link");
  SECTION("by who opens it") {
    CHECK(open_together(folder, both, read_both) ==
          std::pair<std::string, std::string>("new", "new"));
  }
  SECTION("by who opens it through a link") {
    open_together(folder.string() + "_link", both, read_both);
  }
  SECTION("by who writes next") {
    AtomicFolder files(folder);
    test::write(files.file("c"), "another");
    files.commit();
  }
  fs::remove(folder.string() + "_link");
  CHECK(test::read(folder / "b") == "new of b");
  CHECK_FALSE(fs::exists(folder / ".next"));
}

TEST_CASE("what a program that knows nothing of .next wrote after a kill is not replaced") {
  const fs::path folder = cut_short("atomic_folder_stale");
  test::write(folder / "a", "python of a");
  test::write(folder / "b", "python of b");
  const auto later = fs::last_write_time(folder / ".next" / "b") + std::chrono::seconds(1);
  fs::last_write_time(folder / "b", later);
  CHECK(current_file(folder, "b") == folder / "b");
  const auto found = open_together(folder, both, read_both);
  CHECK(found.first == "python");
  CHECK(found.second == "python");
  CHECK_FALSE(fs::exists(folder / ".next"));
  CHECK(test::read(folder / "b") == "python of b");
}

TEST_CASE("of two savers the last to commit counts, whoever wrote first") {
  const fs::path folder = test::fresh_folder("atomic_folder_order");
  AtomicFolder first(folder), second(folder);
  for (const std::string name : {"a", "b"}) {
    test::write(first.file(name), "first of " + name);
  }
  for (const std::string name : {"a", "b"}) {
    test::write(second.file(name), "second of " + name);
    fs::last_write_time(second.file(name),
                        fs::last_write_time(first.file(name)) + std::chrono::milliseconds(1));
  }
  second.commit();
  first.commit();
  CHECK(test::read(folder / "a") == "first of a");
  CHECK(test::read(folder / "b") == "first of b");
}

TEST_CASE("a replacement that another is finishing is left to it, and read where it is") {
  const fs::path folder = cut_short("atomic_folder_locked");
  const loraplus::detail::Lock lock(folder, loraplus::detail::Lock::Wait::no);
  CHECK(open_together(folder, both, read_both) ==
        std::pair<std::string, std::string>("new", "new"));
  CHECK(fs::exists(folder / ".next" / "b"));
}

TEST_CASE("files that are replaced while they are opened are opened again") {
  const fs::path folder = test::fresh_folder("atomic_folder_together");
  put_both(folder, "old");
  int attempts = 0;
  const auto versions = open_together(folder, both, [&](const fs::path& a, const fs::path& b) {
    const std::string of_a = test::read(a);
    if (attempts++ == 0) put_both(folder, "new");
    return of_a + " and " + test::read(b);
  });
  CHECK(versions == "new of a and new of b");
  CHECK(attempts == 2);

  attempts = 0;
  CHECK(open_together(folder, both, [&](const fs::path& /*a*/, const fs::path& /*b*/) {
    if (attempts++ > 0) return true;
    put_both(folder, "newer");
    throw FileError("gone");  // as one that was moved
  }));
  CHECK(attempts == 2);

  attempts = 0;
  const auto fails = [&](const fs::path& /*a*/, const fs::path& /*b*/) -> int {
    ++attempts;
    throw FileError("damaged");
  };
  CHECK(test::message_of<FileError>([&] { open_together(folder, both, fails); }) == "damaged");
  CHECK(attempts == 1);

  const auto replace = [&](const fs::path& a, const fs::path& /*b*/) {
    test::write(folder / "new", "x");  // an inode of its own
    fs::rename(folder / "new", a);
    return 0;
  };
  CHECK(test::contains(test::message_of<FileError>([&] { open_together(folder, both, replace); }),
                       "being replaced all the time"));
}

TEST_CASE("who reads beside who writes finds files of one version") {
  const fs::path folder = test::fresh_folder("atomic_folder_beside");
  put_both(folder, "0");
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (int version = 1; !done; ++version) {
      put_both(folder, std::to_string(version));
    }
  });
  int torn = 0;
  for (int i = 0; i < 3000; ++i) {
    try {
      const auto [of_a, of_b] = open_together(folder, both, read_both);
      torn += of_a == of_b ? 0 : 1;
    } catch (const FileError&) {
      ++torn;
    }
  }
  done = true;
  writer.join();
  CHECK(torn == 0);
}

TEST_CASE("what a killed program left of its files goes when they are written again") {
  const fs::path folder = test::fresh_folder("atomic_folder_left");
  fs::create_directory(folder / ".next.1.0.part");
  test::write(folder / ".next.1.0.part" / "a", "left");
  const AtomicFolder at_work(folder);
  put_both(folder, "new");
  CHECK_FALSE(fs::exists(folder / ".next.1.0.part"));
  CHECK(fs::exists(at_work.file("a").parent_path()));
  CHECK(std::distance(fs::directory_iterator(folder), {}) == 3);
}

TEST_CASE("a folder that cannot be written to is named") {
  const fs::path folder = test::fresh_folder("atomic_folder_error");
  test::write(folder / "file", "");
  CHECK(test::contains(test::message_of<FileError>([&] { AtomicFolder(folder / "file"); }),
                       "cannot write to " + (folder / "file").string()));
}
