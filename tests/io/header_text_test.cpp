#include <loraplus/io/header_text.hpp>
#include <nlohmann/json.hpp>
#include <vector>

#include "support/catch.hpp"

using loraplus::detail::HeaderText;

namespace {

/// What the parser gets, and what the texts hold.
struct Passed {
  std::string characters;
  std::vector<std::string> texts;
};

Passed passed(const std::string& json) {
  // in memory of just its size: what is read beyond is found by the address sanitizer
  const std::vector<char> exact(json.begin(), json.end());
  HeaderText text(std::string_view(exact.data(), exact.size()));
  Passed passed;
  bool opened = false;
  for (auto at = text.begin(); at != text.end();) {
    passed.characters += *at;
    opened = !opened && *at == '"';
    ++at;
    if (opened) passed.texts.push_back(text.text());
  }
  CHECK(text.position() == json.size());
  return passed;
}

/// Whether the JSON library reads the text, and what it then holds.
std::optional<std::string> read_by_library(const std::string& json) {
  const auto read = nlohmann::json::parse(json, nullptr, false);
  if (read.is_discarded()) return {};
  return read.get<std::string>();
}

}  // namespace

TEST_CASE("the parser gets the quotes of a text, one blank and few digits of many") {
  const Passed read = passed("{ \"a\" :\n\n [1,\t \"b \\\" c\", \"\"]  }");
  CHECK(read.characters == "{ \"\" :\n[1,\t\"\", \"\"] }");
  CHECK(read.texts == std::vector<std::string>{"a", "b \" c", ""});
  const std::string digits(400, '7');
  CHECK(passed("[" + digits + "]").characters == "[" + digits + "]");
  CHECK(passed("[-" + digits + digits + "." + digits + "3e5]").characters ==
        "[-" + digits + "." + digits + "e5]");
}

TEST_CASE("a text holds what the JSON library reads of it, or shows it what is wrong") {
  std::vector<std::string> pieces = {"a", "", "\x7F", "\xC3\xA9", "\xF0\x9F\x98\x80", "\x1F", "\n"};
  for (int c = 1; c < 128; ++c) {
    pieces.push_back(std::string("\\") + static_cast<char>(c));
  }
  for (const char* digits :
       {"0000", "0041", "007f", "0080", "07fF", "0800", "D7FF", "E000", "ffff", "d800",
        "DBFF", "dC00", "DFFF", "-001", "+001", "0x11", " 001", "00g0", "001",  ""}) {
    pieces.push_back(std::string("\\u") + digits);
  }
  int valid = 0, wrong = 0;
  for (const std::string& first : pieces) {
    for (const std::string& second : pieces) {
      for (const std::string& json : {'"' + first + second + '"', '"' + first + second}) {
        const auto expected = read_by_library(json);
        const Passed read = passed(json);
        wrong += read_by_library(read.characters).has_value() == expected.has_value() ? 0 : 1;
        if (!expected) continue;
        ++valid;
        wrong += read.texts == std::vector{*expected} ? 0 : 1;
      }
    }
  }
  CHECK(wrong == 0);
  CHECK(valid > 400);
}

TEST_CASE("a long name in a message is cut between two characters") {
  using loraplus::detail::in_quotes;
  CHECK(in_quotes(std::string(256, 'n')) == "'" + std::string(256, 'n') + "'");
  CHECK(in_quotes(std::string(257, 'n')) == "'" + std::string(256, 'n') + "...'");
  CHECK(in_quotes(std::string(254, 'n') + "\xF0\x9F\x98\x80") ==
        "'" + std::string(254, 'n') + "...'");
}
