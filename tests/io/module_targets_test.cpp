#include <loraplus/io/module_targets.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"

using loraplus::ArgumentError;
using loraplus::find_pattern;
using loraplus::Index;
using loraplus::is_target;
using loraplus::ModuleNames;
using loraplus::ModuleTargets;

namespace {

using Names = std::vector<std::string>;

}  // namespace

// PEFT's own cases, tests/test_tuners_utils.py, REGEX_TEST_CASES; a pattern at the beginning of a
// name counts since 0.21.
TEST_CASE("T27: modules are chosen as PEFT chooses them") {
  struct Case {
    std::string module;
    ModuleNames targets;
    std::optional<std::vector<Index>> layers;
    Names patterns;
    bool expected;
  };
  const auto all = std::nullopt;
  const std::string q = "transformer.h.1.attn.attention.q_proj";
  const std::vector<Case> cases = {
      {"", Names{}, all, {}, false},
      {"", Names{"foo"}, all, {}, false},
      {"foo", Names{}, all, {}, false},
      {"foo", Names{"foo"}, all, {}, true},
      {"foo", Names{"bar"}, all, {}, false},
      {"foo", Names{"foo", "bar"}, all, {}, true},
      {"foo", "foo", all, {}, true},
      {"foo", ".*oo", all, {}, true},
      {"foo", "fo.*", all, {}, true},
      {"foo", ".*bar.*", all, {}, false},
      {"foobar", ".*oba.*", all, {}, true},
      {"foo.bar.1.baz", Names{"baz"}, {{1}}, {"bar"}, true},
      {"foo.bar.1.baz", Names{"baz"}, {{0}}, {"bar"}, false},
      {"foo.bar.1.baz", Names{"baz"}, {{2}}, {"bar"}, false},
      {"foo.bar.10.baz", Names{"baz"}, {{0}}, {"bar"}, false},
      {"foo.bar.10.baz", Names{"baz"}, {{1}}, {"bar"}, false},
      {"foo.bar.1.baz", Names{"baz"}, {{0, 1, 2}}, {"bar"}, true},
      {"foo.bar.1.baz", Names{"baz", "spam"}, {{1}}, {"bar"}, true},
      {"foo.bar.1.baz", Names{"baz", "spam"}, {{0, 1, 2}}, {"bar"}, true},
      {"foo.whatever.1.baz", Names{"baz"}, {{1}}, {}, true},
      {"foo.whatever.1.baz", Names{"baz"}, {{0}}, {}, false},
      {q + ".foo", Names{"q_proj"}, all, {}, false},
      {q, Names{}, all, {}, false},
      {q, Names{"q_proj"}, all, {}, true},
      {q, Names{"q_proj", "v_proj"}, all, {}, true},
      {"transformer.h.1.attn.attention.resid_dropout", Names{"q_proj", "v_proj"}, all, {}, false},
      {q, Names{"q_proj"}, {{1}}, {"h"}, true},
      {q, Names{"q_proj"}, {{0}}, {"h"}, false},
      {q, Names{"q_proj"}, {{2}}, {"h"}, false},
      {q, Names{"q_proj"}, {{0, 1, 2}}, {"h"}, true},
      {q, Names{"q_proj", "v_proj"}, {{0, 1, 2}}, {"h"}, true},
      {"foo.bar.q_proj", Names{"q_proj"}, all, {}, true},
      {"foo.bar.1.baz", Names{"baz"}, {{1}}, {"foo"}, false},
      {"foo.bar.1.baz", Names{"baz"}, {{1}}, {"baz"}, false},
      {"bar.1.baz", Names{"baz"}, {{1}}, {"bar"}, true},
      {"foo.bar.001.baz", Names{"baz"}, {{1}}, {"bar"}, true},
      {"foo.bar.1.spam.2.baz", Names{"baz"}, {{1}}, {"bar"}, true},
      {"foo.bar.2.spam.1.baz", Names{"baz"}, {{1}}, {"bar"}, false},
      {"blocks.1.weight", Names{"weight"}, {{1}}, {"blocks"}, true},
      {"blocks.1.bias", Names{"weight"}, {{1}}, {"blocks"}, false},
      {"mlp.blocks.1.weight", Names{"weight"}, {{1}}, {"blocks"}, true},
      {"mlp.blocks.1.bias", Names{"weight"}, {{1}}, {"blocks"}, false},
  };
  for (const Case& c : cases) {
    ModuleTargets targets{.targets = c.targets};
    targets.layers = c.layers;
    targets.layers_pattern = c.patterns;
    CAPTURE(c.module, c.targets.index(), c.patterns);
    CHECK(is_target(targets, c.module) == c.expected);
  }
}

TEST_CASE("T28: the layer is the first number, not that of an expert in it") {
  ModuleTargets targets{.targets = Names{"w1"}};
  targets.layers = {{1}};
  CHECK(is_target(targets, "model.layers.1.experts.0.w1"));
  CHECK_FALSE(is_target(targets, "model.layers.0.experts.1.w1"));
  CHECK_FALSE(is_target(targets, "model.layers.99999999999999999999.w1"));  // of no integer
  targets.targets = Names{"model.layers.0.experts.1.w1"};
  CHECK(is_target(targets, "model.layers.0.experts.1.w1"));  // named in full: no filter
}

TEST_CASE("no patterns: the number needs two parts before it; no layers: no filter") {
  ModuleTargets targets{.targets = Names{"baz"}};
  targets.layers = {{1}};
  CHECK(is_target(targets, "foo.bar.1.baz"));
  CHECK_FALSE(is_target(targets, "foo.1.baz"));
  CHECK_FALSE(is_target(targets, "1.baz"));
  targets.layers = std::vector<Index>{};
  CHECK(is_target(targets, "foo.1.baz"));
}

TEST_CASE("of several patterns the first that fits tells the layer") {
  ModuleTargets targets{.targets = Names{"baz"}};
  targets.layers_pattern = {"h", "layers"};
  targets.layers = {{2}};
  CHECK(is_target(targets, "layers.1.h.2.baz"));
  CHECK(is_target(targets, "layers.2.g.1.baz"));
  targets.layers = {{1}};
  CHECK_FALSE(is_target(targets, "layers.1.h.2.baz"));
}

TEST_CASE("names end at a dot, and an exclusion is stronger than a target") {
  CHECK_FALSE(is_target({.targets = Names{"foo"}}, "barfoo"));
  CHECK(is_target({.targets = Names{"foo"}}, "bar.foo"));
  CHECK_FALSE(is_target({.targets = Names{"foo"}, .exclude = Names{"foo"}}, "bar.foo"));
  CHECK_FALSE(is_target({.targets = ".*", .exclude = "bar\\..*"}, "bar.foo"));
  CHECK(is_target({.targets = ".*", .exclude = "bar"}, "bar.foo"));
  CHECK_FALSE(is_target({.targets = ".*", .modules_to_save = {"head"}}, "head"));
  CHECK_FALSE(is_target({.targets = ".*", .modules_to_save = {"head"}}, "net.head.0"));
  CHECK(is_target({.targets = ".*", .modules_to_save = {"head"}}, "net.ahead"));
  CHECK_FALSE(is_target({}, "foo"));
}

// tests/test_tuners_utils.py, T4: foo, module.foo and module.module.foo
TEST_CASE("T4: the first pattern that fits gives the rank") {
  using Patterns = std::vector<std::pair<std::string, Index>>;
  const auto rank = [](const Patterns& patterns, const std::string& module) {
    return find_pattern<Index>(patterns, module, 8);
  };
  for (const std::string module : {"foo", "module.foo", "module.module.foo"}) {
    CHECK(rank({{"foo", 16}}, module) == 16);
  }
  CHECK(rank({{"foo", 16}}, "barfoo") == 8);
  CHECK(rank({{"foo", 16}}, "module.barfoo") == 8);
  CHECK(rank({{"foo", 16}}, "foobar") == 8);
  CHECK(rank({{"^foo", 16}}, "foo") == 16);
  CHECK(rank({{"^foo", 16}}, "module.foo") == 8);
  CHECK(rank({{"^module.foo", 16}}, "module.foo") == 16);
  CHECK(rank({{"^module.foo", 16}}, "module.module.foo") == 8);
  CHECK(rank({{"module.foo", 16}}, "module.module.foo") == 16);
  CHECK(rank({{"module.foo", 16}, {"foo", 4}}, "module.foo") == 16);
  CHECK(rank({{"foo", 4}, {"module.foo", 16}}, "module.foo") == 4);
  CHECK(rank({}, "foo") == 8);
}

TEST_CASE("an expression that is none is named") {
  const auto message = [](const ModuleTargets& targets) {
    return test::message_of<ArgumentError>([&] { is_target(targets, "foo"); });
  };
  CHECK(test::contains(message({.targets = "(foo"}), "'(foo' is no regular expression"));
  CHECK(test::contains(message({.targets = "foo", .exclude = "(?<=f)oo"}), "has '(?<='"));
}

TEST_CASE("expressions are those of Python") {
  CHECK(is_target({.targets = "(?i)net\\.FC[12]"}, "net.fc1"));
  CHECK(is_target({.targets = "^(?P<layer>fc)[12]\\Z"}, "fc2"));
  CHECK_FALSE(is_target({.targets = ".*", .exclude = "\\Afc\\d{,2}"}, "fc12"));
  CHECK(find_pattern<Index>({{"(?P<layer>fc)\\d", 4}}, "net.fc1", 8) == 4);
}

TEST_CASE("many patterns are compiled once for all modules") {
  std::vector<std::pair<std::string, Index>> patterns;
  for (int i = 0; i < 1000; ++i) {
    patterns.emplace_back("layers\\." + std::to_string(i) + "\\.(?:q_proj|v_proj)", i + 1);
  }
  const auto find = [&](int layer) {
    return find_pattern<Index>(patterns, "layers." + std::to_string(layer) + ".v_proj", 0);
  };
  const auto* first =
      &loraplus::detail::compiled(loraplus::detail::pattern_expression(patterns.front().first));
  for (int layer = 0; layer < 1000; layer += 100) {
    CHECK(find(layer) == layer + 1);
  }
  CHECK(&loraplus::detail::compiled(loraplus::detail::pattern_expression(patterns.front().first)) ==
        first);
}
