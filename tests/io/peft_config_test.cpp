#include <loraplus/io/peft_config.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"

using loraplus::BiasMode;
using loraplus::FileError;
using loraplus::parse_peft_config;
using loraplus::PeftConfig;
using loraplus::Scaling;
using test::contains;

namespace {

using Names = std::vector<std::string>;

PeftConfig parse(const std::string& text) {
  return parse_peft_config(text, "adapter_config.json");
}

std::string message_of(const std::string& text) {
  return test::message_of<FileError>([&] { parse(text); });
}

/// The least configuration with one more key.
std::string with(const std::string& more) {
  return R"({"peft_type": "LORA", "target_modules": ["fc1"], )" + more + "}";
}

}  // namespace

TEST_CASE("what is not told has PEFT's defaults") {
  const PeftConfig config = parse(R"({"peft_type": "LORA", "target_modules": ["fc1"]})");
  CHECK(config.r == 8);
  CHECK(config.lora_alpha == 8);
  CHECK(config.lora_dropout == 0);
  CHECK_FALSE(config.use_rslora);
  CHECK(config.bias == BiasMode::none);
  CHECK(std::get<Names>(config.modules.targets) == Names{"fc1"});
  CHECK(config.unknown_keys.empty());
}

TEST_CASE("every key that decides something is read") {
  const PeftConfig config = parse(R"({
    "peft_type": "LORA", "r": 16, "lora_alpha": 22.5, "lora_dropout": 0.25, "use_rslora": true,
    "fan_in_fan_out": true, "bias": "lora_only", "rank_pattern": {"^b": 4, "a": 2},
    "alpha_pattern": {"a": 3.5}, "target_modules": ["fc1", "fc2"], "exclude_modules": ".*fc\\d",
    "modules_to_save": ["head"], "layers_to_transform": 1, "layers_pattern": "blocks",
    "init_lora_weights": "gaussian", "base_model_name_or_path": "mlp", "task_type": null,
    "revision": null, "megatron_core": "megatron.core"})");
  CHECK(config.r == 16);
  CHECK(config.lora_alpha == 22.5);
  CHECK(config.lora_dropout == 0.25);
  CHECK(config.use_rslora);
  CHECK(config.fan_in_fan_out);
  CHECK(config.bias == BiasMode::lora_only);
  CHECK(std::get<Names>(config.modules.targets) == Names{"fc1", "fc2"});
  CHECK(std::get<std::string>(config.modules.exclude) == ".*fc\\d");
  CHECK(config.modules.modules_to_save == Names{"head"});
  CHECK(config.modules.layers == std::vector<loraplus::Index>{1});
  CHECK(config.modules.layers_pattern == Names{"blocks"});
  CHECK(std::get<std::string>(config.init_lora_weights) == "gaussian");
  CHECK(config.base_model_name_or_path == "mlp");
  CHECK(config.unknown_keys.empty());
  const auto a = config.options_for("net.a");
  CHECK(a.rank == 2);
  CHECK(a.alpha == 3.5);
  CHECK(a.scaling == Scaling::rank_stabilized);
  CHECK(a.dropout == 0.25);
  CHECK(config.options_for("b").rank == 4);
  CHECK(config.options_for("net.b").rank == 16);
}

// PEFT's tests/test_initialization.py: scalings 11/25, 17/9, 13/16 and with rslora 11/5, 17/3,
// 13/4.
TEST_CASE("T3: patterns give each module its scaling") {
  const auto scalings = [](const std::string& rslora) {
    const PeftConfig config =
        parse(with(R"("r": 25, "lora_alpha": 17, "rank_pattern": {"embed": 9, "conv2d": 16},
                   "alpha_pattern": {"linear": 11, "conv2d": 13}, "use_rslora": )" +
                   rslora));
    std::vector<double> made;
    for (const char* module : {"linear", "embed", "conv2d"}) {
      made.push_back(loraplus::lora_scaling(config.options_for(module)));
    }
    return made;
  };
  CHECK(scalings("false")[0] == Approx(11.0 / 25));
  CHECK(scalings("false")[1] == Approx(17.0 / 9));
  CHECK(scalings("false")[2] == Approx(13.0 / 16));
  CHECK(scalings("true")[0] == Approx(11.0 / 5));
  CHECK(scalings("true")[1] == Approx(17.0 / 3));
  CHECK(scalings("true")[2] == Approx(13.0 / 4));
}

TEST_CASE("T30: unknown keys are passed over and told; without a type there is no adapter") {
  CHECK(parse(with(R"("foo": {"a": [1]}, "r": 4)")).unknown_keys == Names{"foo"});
  CHECK(contains(message_of(R"({"foo": "bar"})"), "adapter_config.json has no key 'peft_type'"));
  CHECK(contains(message_of(R"({"peft_type": "IA3"})"), "'peft_type' must be \"LORA\""));
}

TEST_CASE("K13: what this library does not compute is refused, not passed over") {
  for (const std::string key :
       {R"("use_bdlora": true)", R"("use_qalora": true)", R"("target_parameters": ["w"])",
        R"("layer_replication": [[0, 2]])", R"("trainable_token_indices": [1])",
        R"("init_lora_weights": "pissa")", R"("init_lora_weights": "olora")",
        R"("init_lora_weights": "OLoRA")", R"("init_lora_weights": "pissa_niter_4")",
        R"("alora_invocation_tokens": [1])", R"("kasa_config": {"beta": 1})"}) {
    CAPTURE(key);
    CHECK(contains(message_of(with(key)), "adapter_config.json: '" + key.substr(1, 5)));
  }
  for (const std::string key :
       {R"("use_dora": true)", R"("lora_bias": null)", R"("target_parameters": [])",
        R"("loftq_config": {})", R"("init_lora_weights": "gaussian")",
        R"("init_lora_weights": false)"}) {
    CAPTURE(key);
    CHECK_NOTHROW(parse(with(key)));
  }
}

TEST_CASE("a zero byte does not end a configuration") {
  CHECK(contains(message_of(with(R"("r": 2)") + std::string("\0 xx", 4)), "zero byte"));
}

TEST_CASE("a wrong value is named by its key") {
  for (const std::string bad : {R"("r": 0)",
                                R"("r": -1)",
                                R"("r": 2.5)",
                                R"("r": "8")",
                                R"("lora_alpha": "a")",
                                R"("lora_dropout": [])",
                                R"("use_rslora": 3)",
                                R"("bias": "some")",
                                R"("rank_pattern": {"a": 0})",
                                R"("rank_pattern": [1])",
                                R"("alpha_pattern": {"a": "b"})",
                                R"("exclude_modules": 3)",
                                R"("modules_to_save": [3])",
                                R"("layers_to_transform": "a")",
                                R"("layers_to_transform": [1e300])",
                                R"("rank_pattern": {"a": 1e300})",
                                R"("rank_pattern": {"a": 2.5})",
                                R"("rank_pattern": {"a": 18446744073709551615})",
                                R"("rank_pattern": {"(": 2})",
                                R"("alpha_pattern": {"[": 2})",
                                R"("exclude_modules": "[")",
                                R"("modules_to_save": ["["])",
                                R"("layers_pattern": "*", "layers_to_transform": 1)"}) {
    CAPTURE(bad);
    CHECK(contains(message_of(with(bad)),
                   "adapter_config.json: '" + bad.substr(1, bad.find('"', 1) - 1) + "'"));
  }
  CHECK(contains(message_of(with(R"("lora_dropout": 1.5)")), "dropout"));
  CHECK(contains(message_of(with(R"("lora_alpha": -1)")), "alpha"));
  CHECK(contains(message_of(with(R"("lora_alpha": 0)")), "alpha"));
  CHECK(contains(message_of("{"), "adapter_config.json is no JSON"));
  CHECK(contains(message_of("[]"), "must hold an object"));
}

TEST_CASE("an expression that would end the program is refused") {
  const std::string deep = std::string(50'000, '(') + std::string(50'000, ')');
  CHECK(contains(message_of(R"({"peft_type": "LORA", "target_modules": ")" + deep + R"("})"),
                 "'target_modules' is wrong: '(((((((("));
  const std::string allowed = std::string(2048, '(') + std::string(2048, ')');
  CHECK_NOTHROW(parse(R"({"peft_type": "LORA", "target_modules": ")" + allowed + R"("})"));
}

TEST_CASE("a key is refused where PEFT refuses it") {
  const auto told = [](const std::string& targets, const std::string& more) {
    return R"({"peft_type": "LORA", "target_modules": )" + targets + ", " + more + "}";
  };
  for (const std::string targets : {R"("fc\\d")", R"("all-linear")"}) {
    CHECK(contains(message_of(told(targets, R"("layers_to_transform": [1])")),
                   "'layers_to_transform' cannot be told where 'target_modules' is a string"));
    CHECK(contains(message_of(told(targets, R"("layers_pattern": "h")")),
                   "'layers_pattern' cannot be told where 'target_modules' is a string"));
  }
  CHECK(contains(message_of(with(R"("layers_pattern": "h")")),
                 "'layers_pattern' is told without 'layers_to_transform'"));
  CHECK_NOTHROW(parse(with(R"("layers_pattern": [])")));
  CHECK_NOTHROW(parse(with(R"("layers_pattern": "h", "layers_to_transform": 0)")));
  CHECK_NOTHROW(parse(told(R"("fc1")", R"("layers_to_transform": null)")));
}

TEST_CASE("a key that is nested deeply is refused, whichever it is") {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  const std::string objects = std::string(129, '[') + "{}" + std::string(129, ']');
  auto keys = nlohmann::json::parse(loraplus::detail::peft_defaults);
  keys["of nobody"] = nullptr;
  for (const auto& [key, value] : keys.items()) {
    for (const std::string& text : {deep, objects}) {
      CAPTURE(key);
      CHECK(contains(message_of("{\"" + key + "\": " + text + "}"),
                     "is nested more than 128 levels deep in '" + key + "'"));
    }
  }
  CHECK(contains(message_of(deep), "is nested more than 128 levels deep"));
}

TEST_CASE("a message shows no more than the beginning of a value") {
  for (const char* key : {"r", "lora_alpha", "use_dora", "peft_type", "rank_pattern"}) {
    CHECK(message_of(with('"' + std::string(key) + "\": [\"" + std::string(100'000, 'x') + "\"]"))
              .size() < 300);
  }
  CHECK(contains(message_of(with(R"("r": "\u00e9")")), "found \"\\u00e9\""));
}

TEST_CASE("of a pattern that is there twice the last value counts, in the first's place") {
  const PeftConfig config =
      parse(with(R"("rank_pattern": {"b": 1, "a": 2, "b": 3}, "alpha_pattern": {"c": 1},
                    "alpha_pattern": {"b": 2, "a": 3})"));
  CHECK(config.rank_pattern == PeftConfig::Patterns<loraplus::Index>{{"b", 3}, {"a", 2}});
  CHECK(config.alpha_pattern == PeftConfig::Patterns<double>{{"b", 2}, {"a", 3}});
}

TEST_CASE("a configuration that takes long is refused") {
  const auto patterns = [](int count, const std::string& pattern) {
    std::string text = "\"rank_pattern\": {";
    for (int i = 0; i < count; ++i) {
      text += (i == 0 ? "\"" : ", \"") + pattern + std::to_string(i) + "\": 1";
    }
    return with(text + "}");
  };
  CHECK(parse(patterns(4096, "a")).rank_pattern.size() == 4096);
  CHECK(contains(message_of(patterns(4097, "a")), "'rank_pattern' has more than 4096 keys"));
  CHECK(contains(message_of(patterns(50'000, "a")), "'rank_pattern' has more than 4096 keys"));
  CHECK(contains(message_of(patterns(40, "(?:a?){2000}")),
                 "'rank_pattern' makes the regular expressions of the file too many"));
  std::string keys = "{\"k\": 1";
  for (int i = 0; i < 4096; ++i) {
    keys += ", \"" + std::to_string(i) + "\": 1";
  }
  CHECK(contains(message_of(keys + "}"), "it has more than 4096 keys"));
  CHECK(contains(message_of("{" + std::string(1 << 20, ' ') + "}"),
                 "has 1048578 bytes, at most 1048576 may be"));
}

TEST_CASE("a text that JSON cannot hold is refused before anything is written") {
  PeftConfig config;
  config.base_model_name_or_path = "\xff";
  CHECK_THROWS_AS(to_text(config), loraplus::ArgumentError);
}

TEST_CASE("K14: patterns that overlap stay in their order, by which the first one counts") {
  const PeftConfig config =
      parse(with(R"("r": 2, "rank_pattern": {"fc1": 3, "fc.": 4, "b": 5, "a": 6})"));
  const PeftConfig again = parse(to_text(config));
  CHECK(again.rank_pattern == config.rank_pattern);
  CHECK(again.options_for("fc1").rank == 3);
  CHECK(again.options_for("fc2").rank == 4);
}

TEST_CASE("what is written is read again, in the order and form of PEFT") {
  PeftConfig config;
  config.r = 4;
  config.lora_alpha = 16;
  config.use_rslora = true;
  config.bias = BiasMode::all;
  config.rank_pattern = {{"^fc2", 2}};
  config.alpha_pattern = {{"^fc2", 0.5}};
  config.modules.targets = Names{"fc1", "fc2"};
  config.modules.modules_to_save = {"head"};
  const std::string text = to_text(config);
  const PeftConfig again = parse(text);
  CHECK(to_text(again) == text);
  CHECK(again.rank_pattern == config.rank_pattern);
  CHECK(again.alpha_pattern == config.alpha_pattern);
  CHECK(std::get<Names>(again.modules.targets) == Names{"fc1", "fc2"});
  CHECK(contains(text, "\"lora_alpha\": 16,\n"));
  CHECK(contains(text, "\"lora_dropout\": 0.0,\n"));
  CHECK(contains(text, "\"rank_pattern\": {\n    \"^fc2\": 2\n  }"));
  CHECK(again.unknown_keys.empty());
}
