#include "ratio_lab/runner.hpp"

#include <atomic>

#include "benchmarks/ratio_lab/lab.hpp"
#include "support/catch.hpp"
#include "support/errors.hpp"

using lab::Job;
using lab::Json;

namespace {

std::vector<Job> squares(int count, std::atomic<int>& calls) {
  std::vector<Job> jobs;
  for (int i = 0; i < count; ++i) {
    jobs.push_back({"square " + std::to_string(i), [i, &calls] {
                      ++calls;
                      return Json(i * i);
                    }});
  }
  return jobs;
}

}  // namespace

TEST_CASE("jobs give their results in order, each done once") {
  for (const unsigned threads : {1U, 4U}) {
    test::Laboratory laboratory("runner", threads);
    std::atomic<int> calls = 0;
    auto jobs = squares(20, calls);
    jobs.push_back(jobs[3]);  // the same again
    const auto results = laboratory.runner().run("test", jobs);
    REQUIRE(results.size() == 21);
    for (int i = 0; i < 20; ++i) {
      CHECK(results[static_cast<std::size_t>(i)] == i * i);
    }
    CHECK(results[20] == 9);
    CHECK(calls == 20);
    CHECK(laboratory.runner().run("test", jobs) == results);
    CHECK(calls == 20);
    CHECK(laboratory.runner().done() == 20);
  }
}

TEST_CASE("what was done before a job failed is kept") {
  test::Laboratory laboratory("runner_failure", 1);
  std::atomic<int> calls = 0;
  auto jobs = squares(5, calls);
  jobs[3].work = []() -> Json { throw std::runtime_error("no"); };
  CHECK_THROWS_AS(laboratory.runner().run("test", jobs), std::runtime_error);
  CHECK(laboratory.store().results().size() == 3);
  CHECK(laboratory.store().find("square 2") != nullptr);
}

TEST_CASE("results that are only read must be complete") {
  test::Laboratory laboratory("runner_reading");
  std::atomic<int> calls = 0;
  const auto jobs = squares(3, calls);
  laboratory.runner().run("test", std::span(jobs).first(2));
  lab::Store reading = lab::Store::read(laboratory.folder() / "results.jsonl");
  finetune::Progress progress(true);
  lab::Runner reader(reading, 1, progress);
  CHECK(reader.run("test", std::span(jobs).first(2)).size() == 2);
  const auto message = test::message_of<lab::Incomplete>([&] { reader.run("a phase", jobs); });
  CHECK(test::contains(message, "1 trials of \"a phase\" are missing"));
  CHECK(calls == 2);
}
