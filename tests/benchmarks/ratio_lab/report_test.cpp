#include "ratio_lab/report.hpp"

#include <fstream>
#include <sstream>

#include "benchmarks/ratio_lab/lab.hpp"
#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/idx_data.hpp"

using lab::Document;
using lab::Json;
using lab::Picture;
using lab::Table;

namespace {

namespace fs = std::filesystem;
using test::read;

Document sample() {
  return {"A <title>",
          {{"R1", "claim & more", "rule", "reproduced", "0 < 1"}},
          {{"Section \"one\"",
            {"Some text.", Table{"caption", {"a", "b"}, {{"1", "<2>"}, {"long one", "4"}}},
             Picture{"curve", "What it shows", "plot x title 'x < y'\n"}}}}};
}

}  // namespace

TEST_CASE("text is told to HTML as text") {
  CHECK(lab::escaped("a < b & \"c\" > d") == "a &lt; b &amp; &quot;c&quot; &gt; d");
}

TEST_CASE("a document is printed with its columns in line") {
  std::ostringstream out;
  lab::print(out, sample());
  CHECK(test::contains(out.str(), "== Section \"one\"\n\nSome text.\n"));
  CHECK(test::contains(out.str(), "  a           b\n  1         <2>\n  long one    4\n"));
  CHECK(test::contains(out.str(), "R1 reproduced: claim & more"));
}

TEST_CASE("a report is one page that needs nothing beside it, with its numbers in JSON and CSV") {
  test::Laboratory laboratory("report");
  laboratory.store().append(
      "teacher n=16 net=1 | lora adam init1 r=2 s=1 steps=15 batch=0 | g=2^-4 "
      "ratio=2^0 seed=1",
      {{"loss", 0.25}, {"diverged", false}});
  laboratory.store().append("T3 n=64 seed=2", 0.5);
  laboratory.store().append("T3 n=64 seed=1001", 0.5);
  laboratory.store().append("T2 n=64", 1e-15);
  const bool drawn = lab::write_report(laboratory.folder(), sample(), laboratory.store());
  const std::string page = read(laboratory.folder() / "report.html");
  CHECK(test::contains(page, "<title>A &lt;title&gt;</title>"));
  CHECK(test::contains(page, "class=\"verdict reproduced\""));
  CHECK(test::contains(page, "<td>&lt;2&gt;</td>"));
  CHECK(test::contains(page, ">1 - 2, 1001</td>"));
  CHECK(page.find("<script") == std::string::npos);
  CHECK(page.find("src=") == std::string::npos);
  CHECK((page.find("<svg") != std::string::npos) == drawn);
  CHECK(fs::exists(laboratory.folder() / "curve.gp"));
  CHECK(fs::exists(laboratory.folder() / "curve.svg") == drawn);

  const auto json = Json::parse(read(laboratory.folder() / "report.json"));
  CHECK(json["verdicts"][0]["result"] == "reproduced");
  CHECK(json["sections"][0]["tables"][0]["rows"][1][0] == "long one");
  CHECK(json["settings"]["test"] == "report");
  CHECK(json["trials"] == 4);

  CHECK(read(laboratory.folder() / "trials.csv") ==
        "problem,training,rates,loss,diverged\n\"teacher n=16 net=1\",\"lora adam init1 r=2 s=1 "
        "steps=15 batch=0\",\"g=2^-4 ratio=2^0 seed=1\",0.25,0\n");
}

TEST_CASE("numbers are told as people read them") {
  CHECK(lab::gain_text(0) == "+0.0 %");
  CHECK(lab::gain_text(std::log(1.1)) == "+10.0 %");
  CHECK(lab::gain_text(std::log(0.9)) == "-10.0 %");
  CHECK(lab::ratio_text(4) == "16");
  CHECK(lab::ratio_text(-2) == "1/4");
  CHECK(lab::ratio_text(0) == "1");
  CHECK(lab::power_text(-4.5) == "2^-4.5");
  CHECK(lab::brief(std::nan("")) == "-");
}
