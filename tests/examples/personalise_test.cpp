// The example personalise: its tables, and the program as a user runs it.
#include <sys/wait.h>

#include <cstdlib>
#include <loraplus/io/peft.hpp>
#include <loraplus/io/state_dict.hpp>

#include "personalise/table.hpp"
#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

using personalise::read_table;
using personalise::require_classes;
using personalise::Table;
using personalise::TableError;
using personalise::to_rows;
using test::contains;

namespace {

namespace fs = std::filesystem;

Table table_of(const std::string& content) {
  const fs::path folder = test::fresh_folder("personalise_table");
  test::write(folder / "rows.csv", content);
  return read_table(folder / "rows.csv");
}

std::string refusal(const std::string& content) {
  return test::message_of<TableError>([&] { table_of(content); });
}

struct Ended {
  int code;
  std::string text;
};

Ended run(const fs::path& folder, const std::string& arguments) {
  const fs::path text = folder / "printed.txt";
  const int status = std::system(
      (std::string(PERSONALISE) + ' ' + arguments + " > '" + text.string() + "' 2>&1").c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, test::read(text)};
}

}  // namespace

TEST_CASE("a table has its header and its numbers, however its lines end") {
  for (const std::string end : {"\n", "\r\n"}) {
    const Table table = table_of("a,\"b, c\",y" + end + "1,-2.5,3e2" + end + end + "4,,NA" + end);
    CHECK(table.columns == std::vector<std::string>{"a", "b, c", "y"});
    REQUIRE(table.values.cols() == 2);
    CHECK(table.values(1, 0) == -2.5);
    CHECK(table.values(2, 0) == 300);
    CHECK(std::isnan(table.values(1, 1)));
    CHECK(std::isnan(table.values(2, 1)));
  }
  CHECK(table_of("a,y\n1,2").values(1, 0) == 2);  // no end of line at the end
}

TEST_CASE("a byte order mark and a sign are no hindrance") {
  const Table table = table_of(
      "\xEF\xBB\xBF"
      "a,y\n+1.5,+3e38\n");
  CHECK(table.columns == std::vector<std::string>{"a", "y"});
  CHECK(table.values(0, 0) == 1.5);
  CHECK(table.values(1, 0) == 3e38);
}

TEST_CASE("a target that is no class is named by its line") {
  const auto refused = [](const std::string& targets) {
    const auto rows = to_rows(table_of("a,y\n1,0\n\n2,NA\n" + targets), "", "rows.csv");
    return test::message_of<TableError>([&] { require_classes(rows, 3, "rows.csv"); });
  };
  CHECK(
      contains(refused("1,3\n"), "rows.csv, line 5: the target must be one of the classes 0 to 2"));
  CHECK(contains(refused("1,2\n3,0.5\n"), "line 6: the target"));
  CHECK(contains(refused("1,2\n3,0.5\n"), "found 0.5"));
  CHECK(contains(refused("1,-1\n"), "found -1"));
  const auto rows = to_rows(table_of("a,y\n1,0\n1,2\n"), "", "rows.csv");
  CHECK_NOTHROW(require_classes(rows, 3, "rows.csv"));
}

TEST_CASE("a bad row is named by its line") {
  CHECK(contains(refusal("a,y\n1,2\n3,x\n"),
                 "rows.csv, line 3: column 'y' must be a number of at most 3.4e38, found 'x'"));
  CHECK(contains(refusal("a,y\n1,2\n\n3\n"), "rows.csv, line 4: 1 fields, the header has 2"));
  CHECK(contains(refusal("a,y\n1,2,3\n"), "line 2: 3 fields"));
  CHECK(contains(refusal("a,y\n1,inf\n"), "found 'inf'"));
  CHECK(contains(refusal("a,y\n1,2 3\n"), "found '2 3'"));
  CHECK(
      contains(refusal("a,y\n1,1e39\n"), "line 2: column 'y' must be a number of at most 3.4e38"));
  CHECK(contains(refusal("a,y\n-1e39,1\n"), "found '-1e39'"));
  CHECK(contains(refusal("a,y\n1,+-2\n"), "found '+-2'"));
  CHECK(contains(refusal("a,y\n1,+\n"), "found '+'"));
  CHECK(contains(refusal("a,y\n1,\"2\n"), "ends within a quoted field"));
  CHECK(contains(refusal(""), "must begin with a header"));
  CHECK(contains(test::message_of<TableError>([] { read_table("/none.csv"); }), "/none.csv"));
}

TEST_CASE("missing inputs have the mean of their column, rows without a target are left out") {
  const Table table = table_of("a,b,y\n1,10,5\n,20,6\n3,30,\n5,NA,7\n");
  const auto rows = to_rows(table, "", "rows.csv");
  CHECK(rows.left_out == 1);
  CHECK(rows.filled == 2);
  CHECK(rows.inputs.rows() == 2);
  CHECK(rows.inputs(0, 1) == 3);   // of 1 and 5
  CHECK(rows.inputs(1, 2) == 15);  // of 10 and 20
  CHECK(rows.targets(0, 2) == 7);
  const auto first = to_rows(table, "a", "rows.csv");
  CHECK(first.targets(0, 1) == 3);
  CHECK(first.left_out == 1);
  CHECK(contains(test::message_of<TableError>([&] { to_rows(table, "c", "rows.csv"); }),
                 "rows.csv has no column 'c'"));
  CHECK_THROWS_AS(to_rows(table_of("a,y\n1,\n"), "", "rows.csv"), TableError);
  CHECK(
      contains(test::message_of<TableError>([] { to_rows(table_of("a,y\n,1\n"), "", "rows.csv"); }),
               "column 'a' has no value at all"));
}

TEST_CASE("a network learns the rows that come with the example, and the adapter is saved") {
  const fs::path folder = test::fresh_folder("personalise");
  const std::string data = PERSONALISE_DATA;
  const Ended ended = run(folder, data + "/model.safetensors " + data + "/rows.csv --out '" +
                                      (folder / "adapter").string() + "'");
  CAPTURE(ended.text);
  REQUIRE(ended.code == 0);
  CHECK(contains(ended.text,
                 "119 rows; 2 missing values filled with the mean of their column, 1 rows"));
  double before = 0, after = 1;
  const std::size_t at = ended.text.find("held back of 23 rows: ");
  REQUIRE(at != std::string::npos);
  CHECK(std::sscanf(ended.text.c_str() + at, "held back of 23 rows: %lf before, %lf after", &before,
                    &after) == 2);
  CHECK(after < 0.2 * before);

  const loraplus::Safetensors model(data + "/model.safetensors");
  const auto base = loraplus::load_mlp<float>(model);
  const auto loaded = loraplus::load_peft(folder / "adapter", loraplus::freeze(base.network));
  CHECK(loaded.report.complete());
}

TEST_CASE("wrong uses of the program end with what was wrong") {
  const fs::path folder = test::fresh_folder("personalise_refused");
  const std::string model = std::string(PERSONALISE_DATA) + "/model.safetensors ";
  test::write(folder / "wide.csv", "a,b,y\n1,2,3\n");
  const auto refused = [&](const std::string& arguments) {
    const Ended ended = run(folder, arguments + " --out '" + (folder / "adapter").string() + "'");
    CHECK(ended.code != 0);
    CHECK_FALSE(fs::exists(folder / "adapter"));
    return ended.text;
  };
  CHECK(contains(refused(model + (folder / "wide.csv").string()),
                 "has 2 columns beside the target, the network takes 4"));
  std::mt19937_64 generator{1};
  const loraplus::Linear<float> layer(3, 2, generator);
  loraplus::TensorList tensors;
  tensors.add("fc.weight", layer.weight());
  loraplus::write_safetensors(folder / "classes.safetensors", tensors);
  test::write(folder / "classes.csv", "a,b,y\n1,2,0\n1,2,1.5\n");
  CHECK(contains(
      refused((folder / "classes.safetensors").string() + ' ' + (folder / "classes.csv").string()),
      "classes.csv, line 3: the target must be one of the classes 0 to 2"));
  CHECK(contains(refused("/none.safetensors " + (folder / "wide.csv").string()),
                 "/none.safetensors"));
  CHECK(contains(refused(model + "/none.csv"), "/none.csv"));
  CHECK(contains(refused(model + (folder / "wide.csv").string() + " --rank 0"), "--rank"));
}
