#include <loraplus/io/part.hpp>

#include "support/catch.hpp"
#include "support/files.hpp"
#include "support/killed.hpp"

using loraplus::detail::is_part_of;
using loraplus::detail::Lock;

namespace {

namespace fs = std::filesystem;

}  // namespace

TEST_CASE("a part is told from other files by its name") {
  CHECK(is_part_of("x", loraplus::detail::part_name("x")));
  CHECK(is_part_of("x.tar", loraplus::detail::part_name("x.tar")));
  CHECK(loraplus::detail::part_name("x") != loraplus::detail::part_name("x"));
  for (const std::string other :
       {"", "x", ".x", ".x.", ".x.part", ".x.1.part", ".x..part", ".x.notes.part", ".x.1.2.3.part",
        ".x.1.a.part", "ax.1.2.part", ".xy.1.2.part", ".x.y.1.2.part", ".x.1.2.part.old"}) {
    CAPTURE(other);
    CHECK_FALSE(is_part_of("x", other));
  }
}

TEST_CASE("a lock is held by one, and ends with who holds it") {
  const fs::path folder = test::fresh_folder("part_lock");
  test::write(folder / "x", "");
  for (const fs::path& path : {folder / "x", folder}) {
    {
      const Lock lock(path, Lock::Wait::no);
      CHECK(lock.is_held());
      const Lock second(path, Lock::Wait::no);
      CHECK_FALSE(second.is_held());
      CHECK(second.is_refused());
    }
    test::ends_before_kill(20, [&] {
      const Lock lock(path, Lock::Wait::yes);
      for (;;) {
        ::pause();
      }
    });
    CHECK(Lock(path, Lock::Wait::no).is_held());
  }
  const Lock none(folder / "none", Lock::Wait::no);
  CHECK_FALSE(none.is_held());
  CHECK_FALSE(none.is_refused());
}

TEST_CASE("parts that nobody holds are removed, and nothing else") {
  const fs::path folder = test::fresh_folder("part_abandoned");
  fs::create_directory(folder / ".x.1.0.part");
  test::write(folder / ".x.1.0.part" / "file", "");
  test::write(folder / ".x.1.1.part", "");
  test::write(folder / ".x.1.2.part", "");
  test::write(folder / ".y.1.0.part", "");
  test::write(folder / "x", "");
  const Lock at_work(folder / ".x.1.2.part", Lock::Wait::no);
  loraplus::detail::remove_abandoned_parts(folder, "x");
  CHECK_FALSE(fs::exists(folder / ".x.1.0.part"));
  CHECK_FALSE(fs::exists(folder / ".x.1.1.part"));
  CHECK(std::distance(fs::directory_iterator(folder), {}) == 3);
  CHECK_NOTHROW(loraplus::detail::remove_abandoned_parts(folder / "none", "x"));
}

TEST_CASE("a part that was taken for abandoned before it was locked is made again") {
  const fs::path folder = test::fresh_folder("part_again");
  Lock lock;
  int made = 0;
  const fs::path part = loraplus::detail::make_part(folder, "x", lock, [&](const fs::path& path) {
    if (made++ > 0) test::write(path, "");
    return true;
  });
  CHECK(made == 2);
  CHECK(lock.is_held());
  CHECK(fs::exists(part));
}
