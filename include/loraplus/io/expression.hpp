// SPDX-License-Identifier: MIT
//
// The regular expressions of configurations, which are Python's, matched by the standard library in
// bounded time and memory.
#pragma once

#include <algorithm>
#include <loraplus/core/error.hpp>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace loraplus::inline v0_1::detail {

inline constexpr std::size_t longest_expression = 4096;

/// The most elements of an expression: characters, classes, groups and places, those repeated {n}
/// times n times. The standard library compiles and matches by recursion over them.
inline constexpr std::size_t most_elements = 4096;

/// The most elements of all expressions of a configuration.
inline constexpr std::size_t most_elements_together = std::size_t{1} << 17;

/// A lookahead looks anew at each place of a name: its elements count so many times.
inline constexpr std::size_t lookahead_cost = 32;

/// Writes an expression of Python as std::regex has it, and counts its elements. Groups become
/// those that capture nothing, as nothing asks what they capture. In this order of calls:
/// translate(), then the rest.
class ExpressionReader {
 public:
  explicit ExpressionReader(std::string_view text) : text_(text) {}

  /// @throws ArgumentError for what is wrong, beyond the bounds, or only Python's
  std::string translate() {
    if (text_.size() > longest_expression) {
      throw ArgumentError("'" + std::string(text_.substr(0, 32)) +
                          "...' is a regular expression of " + std::to_string(text_.size()) +
                          " characters, at most " + std::to_string(longest_expression) + " may be");
    }
    if (follows("(?i)")) {
      ignores_case_ = true;
      at_ += 4;
    }
    while (at_ < text_.size()) {
      read_next();
    }
    if (groups_.size() > 1) fail("a '(' has no ')'");
    return std::move(written_);
  }

  bool ignores_case() const { return ignores_case_; }
  std::size_t elements() const { return groups_.front().elements; }

 private:
  struct Group {
    std::size_t elements = 0;
    std::size_t last = 0;  // elements of what a repetition would repeat; 0: of nothing
    bool is_lookahead = false;
  };

  bool follows(std::string_view part) const { return text_.substr(at_, part.size()) == part; }

  void read_next() {
    switch (text_[at_]) {
      case '(':
        return open_group();
      case ')':
        return close_group();
      case '[':
        return read_class();
      case '\\':
        return read_escape();
      case '*':
      case '+':
      case '?':
        return read_repetition(1, std::string(1, text_[at_]), 1);
      case '{':
        return read_counts();
      case '|':
      case '^':
      case '$':
        return add(text_.substr(at_, 1), 1, false);
      case ']':
      case '}':
        return add_literal();
      default:
        return add(text_.substr(at_, 1), 1, true);
    }
  }

  /// Takes so much of the text as is written, and counts it.
  void add(std::string_view written, std::size_t length, bool can_be_repeated) {
    written_ += written;
    at_ += length;
    groups_.back().last = can_be_repeated ? 1 : 0;
    count(1);
  }

  /// A character that has a meaning for std::regex only.
  void add_literal() { add(std::string("\\") + text_[at_], 1, true); }

  void count(std::size_t elements) {
    groups_.back().elements += elements;
    if (groups_.back().elements <= most_elements) return;
    refuse("has more than " + std::to_string(most_elements) +
           " elements, with what is repeated {n} times written out and what is looked ahead for "
           "counted " +
           std::to_string(lookahead_cost) + " times");
  }

  void open_group() {
    std::size_t length = 1;
    std::string_view written = "(?:";
    if (follows("(?:")) {
      length = 3;
    } else if (follows("(?P<")) {
      const std::size_t end = text_.find('>', at_);
      if (end == std::string_view::npos) fail("a '(?P<' has no '>'");
      length = end + 1 - at_;
    } else if (follows("(?=") || follows("(?!")) {
      length = 3;
      written = text_.substr(at_, 3);
      if (std::any_of(groups_.begin(), groups_.end(), [](Group g) { return g.is_lookahead; })) {
        refuse("looks ahead within a lookahead, which is not matched here");
      }
    } else if (follows("(?")) {
      refuse_python(at_, follows("(?<") ? 4 : 3);
    }
    written_ += written;
    at_ += length;
    groups_.push_back({1, 0, written != "(?:"});
  }

  void close_group() {
    if (groups_.size() == 1) fail("a ')' has no '('");
    const Group group = groups_.back();
    groups_.pop_back();
    written_ += ')';
    ++at_;
    groups_.back().last = group.is_lookahead ? 0 : group.elements;
    count(group.elements * (group.is_lookahead ? lookahead_cost : 1));
  }

  /// "[...]", where Python takes '[' as it stands, and ']' at the beginning.
  void read_class() {
    const std::size_t begin = at_;
    const auto write = [&](std::string_view part, std::size_t length) {
      written_ += part;
      at_ += length;
    };
    write("[", 1);
    if (follows("^")) write("^", 1);
    for (bool is_first = true; !follows("]") || is_first; is_first = false) {
      if (at_ == text_.size()) fail("a '[' has no ']'");
      if (text_[at_] == '\\') {
        write(text_.substr(at_, 2), require_escape("dDsSwWnrtfvx"));
      } else if (text_[at_] == '[' || text_[at_] == ']') {
        write(std::string("\\") + text_[at_], 1);
      } else {
        write(text_.substr(at_, 1), 1);
      }
    }
    add("]", 1, true);
    count(at_ - begin - 1);
    groups_.back().last = at_ - begin;
  }

  void read_escape() {
    if (follows("\\A")) return add("^", 2, false);
    if (follows("\\Z")) return add("$", 2, false);
    const std::string_view escape = text_.substr(at_, 2);
    const std::size_t length = require_escape("dDsSwWnrtfvxbB");
    add(escape, length, escape != "\\b" && escape != "\\B");
  }

  /// Refuses an escape whose letter is none of these; all other characters stand for themselves.
  /// @return its length
  std::size_t require_escape(std::string_view letters) const {
    if (at_ + 1 == text_.size()) fail("it ends in '\\'");
    const char c = text_[at_ + 1];
    const bool has_meaning =
        (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (has_meaning && letters.find(c) == std::string_view::npos) refuse_python(at_, 2);
    return 2;
  }

  /// "{2}", "{2,}", "{,3}", "{2,3}"; a brace that begins none of these stands for itself.
  void read_counts() {
    std::size_t at = at_ + 1;
    const auto read_digits = [&] {
      const std::size_t begin = at;
      while (at < text_.size() && text_[at] >= '0' && text_[at] <= '9') {
        ++at;
      }
      return std::string(text_.substr(begin, at - begin));
    };
    const std::string least = read_digits();
    std::string most = least;
    const bool has_comma = at < text_.size() && text_[at] == ',';
    if (has_comma) {
      ++at;
      most = read_digits();
    }
    if (at == text_.size() || text_[at] != '}' || at == at_ + 1) return add_literal();
    const std::string written =
        '{' + (least.empty() ? "0" : least) + (has_comma ? ',' + most : std::string()) + '}';
    const std::size_t times = most.empty() ? count_of(least) + 1 : count_of(most);
    read_repetition(at + 1 - at_, written, std::max<std::size_t>(times, 1));
  }

  /// A number, or one above all bounds.
  static std::size_t count_of(const std::string& digits) {
    if (digits.empty()) return 0;
    return digits.size() > 6 ? most_elements + 1 : std::stoul(digits);
  }

  void read_repetition(std::size_t length, const std::string& written, std::size_t times) {
    Group& group = groups_.back();
    if (group.last == 0) fail("a '" + std::string(1, text_[at_]) + "' has nothing to repeat");
    count(group.last * (times - 1));
    group.last = 0;
    written_ += written;
    at_ += length;
    if (follows("+")) refuse_python(at_ - length, length + 1);
    if (follows("?")) {
      written_ += '?';
      ++at_;
    }
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw ArgumentError("'" + std::string(text_) + "' is no regular expression: " + what);
  }
  [[noreturn]] void refuse(const std::string& what) const {
    throw ArgumentError("the regular expression '" + std::string(text_) + "' " + what);
  }
  [[noreturn]] void refuse_python(std::size_t begin, std::size_t length) const {
    refuse("has '" + std::string(text_.substr(begin, length)) + "', which is not matched here");
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::string written_;
  std::vector<Group> groups_ = std::vector<Group>(1);
  bool ignores_case_ = false;
};

/// A compiled expression.
class Expression {
 public:
  /// @throws ArgumentError that names the expression
  explicit Expression(const std::string& text) : text_(text) {
    ExpressionReader reader(text);
    const std::string translated = reader.translate();
    elements_ = std::max(reader.elements(), text.size());
    auto syntax = std::regex::ECMAScript;
    if (reader.ignores_case()) syntax |= std::regex::icase;
#ifdef __GLIBCXX__
    // GNU's other way to match takes exponential time for some expressions, such as (a*)*b. Other
    // standard libraries give up by themselves, with an error.
    syntax |= std::regex_constants::__polynomial;
#endif
    named([&] { compiled_ = std::regex(translated, syntax); });
  }

  /// What it costs to keep, and, for each character of a name, to match.
  std::size_t elements() const {
    return elements_;
  }

  /// Whether the expression is one for the whole of the name.
  bool matches(const std::string& name) const {
    bool matched = false;
    named([&] { matched = std::regex_match(name, compiled_); });
    return matched;
  }

 private:
  template <typename Function>
  void named(Function function) const {
    try {
      function();
    } catch (const std::regex_error& error) {
      throw ArgumentError("'" + text_ + "' is no regular expression: " + error.what());
    }
  }

  std::string text_;
  std::size_t elements_ = 0;
  std::regex compiled_;
};

/// The expression compiled once for all modules of a network. As Python does, each thread keeps
/// those it used last, at most the elements of one configuration.
/// @return valid until the next call; @throws ArgumentError that names the expression
inline const Expression& compiled(const std::string& text) {
  thread_local std::unordered_map<std::string, Expression> kept;
  thread_local std::size_t elements = 0;
  const auto found = kept.find(text);
  if (found != kept.end()) return found->second;
  Expression made(text);
  if (elements + made.elements() > most_elements_together) {
    kept.clear();
    elements = 0;
  }
  elements += made.elements();
  return kept.emplace(text, std::move(made)).first->second;
}

/// Whether the expression is one for the whole of the name.
inline bool matches(const std::string& name, const std::string& expression) {
  return compiled(expression).matches(name);
}

}  // namespace loraplus::detail
