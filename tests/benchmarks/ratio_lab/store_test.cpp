#include "ratio_lab/store.hpp"

#include <fstream>
#include <sstream>
#include <thread>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/idx_data.hpp"

using lab::Json;
using lab::Store;
using lab::StoreError;

namespace {

namespace fs = std::filesystem;
using test::read;
using test::write;

const Json settings{{"command", "sweep"}, {"width", 16}};

fs::path fresh_file(const std::string& name) {
  const fs::path folder = fs::path(RATIO_LAB_FOLDER) / "store";
  fs::create_directories(folder);
  const fs::path file = folder / (name + ".jsonl");
  fs::remove(file);
  return file;
}

std::string refusal(const fs::path& file, const Json& now = settings) {
  return test::message_of<StoreError>([&] { Store(file, now); });
}

}  // namespace

TEST_CASE("results are there again, bit for bit, when the file is opened anew") {
  const fs::path file = fresh_file("again");
  const double odd = 0.1 + 0.2;
  {
    Store store(file, settings, {{"processor", "x"}});
    store.append("a", {{"loss", odd}});
    store.append("b", 1e-300);
    CHECK(store.find("c") == nullptr);
  }
  const Store store(file, settings, {{"processor", "y"}});
  REQUIRE(store.find("a") != nullptr);
  CHECK((*store.find("a"))["loss"].get<double>() == odd);
  CHECK(store.find("b")->get<double>() == 1e-300);
  CHECK(store.notice().empty());
  CHECK(store.made_by()["processor"] == "x");
  CHECK(store.results().size() == 2);
}

TEST_CASE("a line cut off anywhere is named, taken away, and nothing else is lost") {
  const fs::path file = fresh_file("whole");
  {
    Store store(file, settings);
    store.append("a", 1);
    store.append("b", 2);
  }
  const std::string whole = read(file);
  const std::size_t last = whole.rfind('\n', whole.size() - 2) + 1;  // where its last line begins
  for (std::size_t size = last + 1; size < whole.size(); ++size) {
    const fs::path cut = fresh_file("cut");
    write(cut, whole.substr(0, size));
    {
      Store store(cut, settings);
      CHECK(test::contains(store.notice(), "cut.jsonl, line 3 was cut off"));
      CHECK(store.find("a") != nullptr);
      CHECK(store.find("b") == nullptr);
      store.append("b", 2);
    }
    CHECK(read(cut) == whole);
  }
  // cut in its first line, the file is as if it were new
  const fs::path start = fresh_file("start");
  write(start, whole.substr(0, 10));
  { const Store store(start, settings); }
  CHECK(read(start) == whole.substr(0, whole.find('\n') + 1));
}

TEST_CASE("other settings are named, and the file stays as it is") {
  const fs::path file = fresh_file("settings");
  {
    Store store(file, settings);
    store.append("a", 1);
  }
  const std::string before = read(file);
  const auto message = refusal(file, {{"command", "sweep"}, {"width", 32}});
  CHECK(test::contains(message, "settings.jsonl was made with width = 16, now it is 32"));
  CHECK(test::contains(refusal(file, {{"command", "sweep"}}), "other settings"));
  CHECK(test::contains(refusal(file, {{"command", "sweep"}, {"width", 16}, {"x", 1}}), "x = null"));
  CHECK(read(file) == before);
}

TEST_CASE("a file that is none, or is damaged before its end, is refused by line and left alone") {
  const fs::path file = fresh_file("damaged");
  for (const std::string content : {"hello\n", "{}\n", "{\"ratio_lab\":1}\n", "[1]\n"}) {
    CAPTURE(content);
    write(file, content);
    CHECK(test::contains(refusal(file), "damaged.jsonl, line 1: not a results file"));
    CHECK(read(file) == content);
  }
  write(file, "{\"ratio_lab\":99,\"settings\":{}}\n");
  CHECK(test::contains(refusal(file), "another version"));
  const std::string head = "{\"ratio_lab\":1,\"settings\":" + settings.dump() + "}\n";
  for (const std::string line :
       {"{\"key\":\"a\",\"resu\n", "{}\n", "\n", "{\"key\":1,\"result\":2}\n"}) {
    CAPTURE(line);
    write(file, head + line + "{\"key\":\"b\",\"result\":2}\n");
    CHECK(test::contains(refusal(file), "damaged.jsonl, line 2 is damaged"));
    CHECK(read(file) == head + line + "{\"key\":\"b\",\"result\":2}\n");
  }
}

TEST_CASE("a file in use by another run is refused, and may be read") {
  const fs::path file = fresh_file("busy");
  Store store(file, settings);
  store.append("a", 1);
  CHECK(test::contains(refusal(file), "in use"));
  const Store reading = Store::read(file);
  CHECK(reading.find("a") != nullptr);
  CHECK_FALSE(reading.is_writable());
  CHECK(reading.settings() == settings);
}

TEST_CASE("reading changes nothing, and needs a file") {
  const fs::path file = fresh_file("reading");
  CHECK(test::contains(test::message_of<StoreError>([&] { Store::read(file); }), "there is no"));
  CHECK_FALSE(fs::exists(file));
  const std::string content = "{\"ratio_lab\":1,\"settings\":{}}\n{\"key\":\"a";
  write(file, content);
  CHECK(test::contains(Store::read(file).notice(), "line 2 was cut off"));
  CHECK(read(file) == content);
  CHECK(
      test::contains(refusal(fs::path(RATIO_LAB_FOLDER) / "nowhere" / "x.jsonl"), "cannot write"));
}

TEST_CASE("many threads append whole lines") {
  const fs::path file = fresh_file("threads");
  {
    Store store(file, settings);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&store, t] {
        for (int i = 0; i < 50; ++i) {
          store.append(std::to_string(t) + "/" + std::to_string(i), std::string(100, 'x'));
        }
      });
    }
    for (auto& thread : threads) {
      thread.join();
    }
  }
  CHECK(Store(file, settings).results().size() == 200);
}
