#include <chrono>
#include <loraplus/io/expression.hpp>
#include <thread>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/sanitized.hpp"

using loraplus::ArgumentError;
using loraplus::detail::Expression;
using loraplus::detail::matches;

namespace {

std::string refusal_of(const std::string& expression) {
  return test::message_of<ArgumentError>([&] { Expression{expression}; });
}

std::string repeated(const std::string& part, std::size_t times) {
  std::string text;
  for (std::size_t i = 0; i < times; ++i) {
    text += part;
  }
  return text;
}

template <typename Function>
double seconds(Function&& function) {
  const auto begin = std::chrono::steady_clock::now();
  function();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

// What re.fullmatch of Python 3.11 answers.
TEST_CASE("an expression of Python means what it means there") {
  struct Case {
    const char* expression;
    std::string name;
    bool expected;
  };
  const std::vector<Case> cases = {
      {"", "", true},
      {"", "a", false},
      {"(?i)FC[12]", "fc1", true},
      {"(?i)fc[A-C]", "FCb", true},
      {"FC[12]", "fc1", false},
      {"(?P<name>fc)(?P<number>\\d+)", "fc12", true},
      {"(?P<name>fc)\\d", "fc", false},
      {"^fc[12]\\Z", "fc1", true},
      {"\\Afc[12]$", "fc2", true},
      {"\\Afc[12]$", "fc3", false},
      {"(a)(b|c)+", "abcb", true},
      {"a{2}", "aa", true},
      {"a{,2}", "aa", true},
      {"a{,2}", "aaa", false},
      {"a{,}", "aaa", true},
      {"a{2,}b", "aaab", true},
      {"a{0}b", "b", true},
      {"a{1,2}?b", "aab", true},
      {"a*?b+?c??", "aab", true},
      {"a{b}", "a{b}", true},
      {"a{}", "a{}", true},
      {"a{1", "a{1", true},
      {"a]}", "a]}", true},
      {"[]a]+", "a]", true},
      {"[^]a]", "]", false},
      {"[^]a]", "b", true},
      {"[[a]+", "[a", true},
      {"[[:alpha:]]", "b", false},
      {"[[:alpha:]]", "l]", true},
      {"[\\w.\\-]+", "a_1.b-", true},
      {"[\\d-]+", "1-2", true},
      {"[a\\-c]", "b", false},
      {"a\\.b\\_c\\-", "a.b_c-", true},
      {"\\x66c", "fc", true},
      {"\\bfc\\B1", "fc1", true},
      {"(?!.*head).*fc\\d", "net.fc1", true},
      {"(?!.*head).*fc\\d", "head.fc1", false},
      {"(?:(?!no).)*", "yes", true},
      {"(?:(?!no).)*", "a.no.b", false},
      {"(?=fc)(?:fc|gc)", "gc", false},
      {"(|a)*b", "aab", true},
      {"a|", "", true},
  };
  for (const Case& c : cases) {
    CAPTURE(c.expression, c.name);
    CHECK(matches(c.name, c.expression) == c.expected);
  }
}

TEST_CASE("what is no expression is told, with the reason") {
  for (const char* expression :
       {"(a", "a)", "[a", "[]", "a\\", "*a", "a|*", "(*a)", "^*", "\\b+", "a**", "a{2}{3}", "a*??",
        "(?=a)*", "(?P<a", "a{3,2}", "[z-a]", "\\xg"}) {
    CAPTURE(expression);
    CHECK(
        test::contains(refusal_of(expression), "'" + std::string(expression) + "' is no regular"));
  }
  CHECK(test::contains(refusal_of("a|*"), "a '*' has nothing to repeat"));
  CHECK(test::contains(refusal_of("(a"), "a '(' has no ')'"));
}

TEST_CASE("what only Python matches is refused by name") {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"(?<=a)b", "(?<="}, {"(?<!a)b", "(?<!"},  {"(?P<a>x)(?P=a)", "(?P"}, {"a(?i)", "(?i"},
      {"(?s)a", "(?s"},    {"(?#c)a", "(?#"},    {"(?>a)", "(?>"},          {"(a)\\1", "\\1"},
      {"\\q", "\\q"},      {"\\u0041", "\\u"},   {"[\\A]", "\\A"},          {"[\\b]", "\\b"},
      {"a++", "++"},       {"a{1,2}+", "{1,2}+"}};
  for (const auto& [expression, part] : cases) {
    CAPTURE(expression);
    CHECK(refusal_of(expression) == "the regular expression '" + std::string(expression) +
                                        "' has '" + part + "', which is not matched here");
  }
}

TEST_CASE("an expression has bounds") {
  CHECK(test::contains(refusal_of(std::string(4097, 'a')),
                       "aaa...' is a regular expression of 4097 characters, at most 4096 may be"));
  CHECK(matches(std::string(4096, 'a'), std::string(4096, 'a')));
  CHECK(matches("", std::string(2048, '(') + std::string(2048, ')')));
  const std::string depth = "(?=(?:.*){900}";
  CHECK(test::contains(refusal_of(repeated(depth, 4) + "b))))b"), "a lookahead"));
  for (const std::string large :
       {"(?=(?:.*){900}b)b", "(?:a?){4097}", "((a?){100}){100}", "((((a{9}){9}){9}){9}){9}",
        "a{4000,}[a-z]{90}", "a{99999999999999999999}", "(?:(?!a)){200}", "[a-z]{1000}"}) {
    CAPTURE(large);
    CHECK(test::contains(refusal_of(large), "has more than 4096 elements"));
  }
}

// The largest there are; (a*)*b and its like take a backtracking matcher time exponential in the
// length of the name.
TEST_CASE("a hostile expression is matched in time") {
  const std::string name(40, 'a');
  for (const std::string& expression :
       {std::string("(a*)*b"), std::string("(?:a|a)*b"), std::string("(?:a+)+b"),
        std::string("(.*)*.*(.*)*b"), std::string("(?:.*){2040}b"), std::string("(?:a?){2040}b"),
        ".*(?=(?:.*){60}b)" + std::string(90, 'b'), "(?:" + repeated("(?=.*b|)", 16) + ".)*b",
        repeated("a?", 2000) + "b"}) {
    CAPTURE(expression);
    CHECK(seconds([&] { CHECK_FALSE(matches(name, expression)); }) < (test::sanitized ? 30 : 2));
  }
}

TEST_CASE("an expression is compiled once, as long as there is room") {
  using loraplus::detail::compiled;
  const Expression* first = &compiled("first");
  CHECK(&compiled("first") == first);
  compiled("second");
  CHECK(&compiled("first") == first);
  const Expression* others = nullptr;
  std::thread([&] { others = &compiled("first"); }).join();
  CHECK(others != first);
  for (int i = 0; i < 40; ++i) {  // more than are kept
    CHECK(compiled(std::string(4000, 'a') + std::to_string(i)).elements() >= 4000);
  }
  CHECK(compiled("first").matches("first"));
}
