// SPDX-License-Identifier: MIT
//
// The text of a safetensors header on its way to the JSON parser.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>

namespace loraplus::inline v0_1::detail {

/// Whether all of the text is UTF-8, as the Unicode Standard has it (table 3-7).
inline bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    std::size_t more = 0;
    unsigned low = 0x80, high = 0xBF;  // of the second byte
    if (lead < 0x80) {
      ++i;
      continue;
    }
    if (lead >= 0xC2 && lead <= 0xDF) {
      more = 1;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
      more = 2;
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
      more = 3;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    } else {
      return false;
    }
    if (text.size() - i <= more) return false;
    for (std::size_t k = 1; k <= more; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if (next < low || next > high) return false;
      low = 0x80;
      high = 0xBF;
    }
    i += more + 1;
  }
  return true;
}

/// A name in quotes for a message, not too long.
inline std::string in_quotes(const std::string& name) {
  constexpr std::size_t longest = 256;
  if (name.size() <= longest) return "'" + name + "'";
  std::size_t end = longest;
  while (end > 0 && (static_cast<unsigned char>(name[end]) & 0xC0) == 0x80) {
    --end;  // not within a character
  }
  return "'" + name.substr(0, end) + "...'";
}

inline void append_utf8(std::uint32_t character, std::string& text) {
  if (character < 0x80) {
    text += static_cast<char>(character);
    return;
  }
  constexpr std::uint32_t leads[] = {0, 0xC0, 0xE0, 0xF0};
  unsigned more = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
  text += static_cast<char>(leads[more] | (character >> (6 * more)));
  while (more-- > 0) {
    text += static_cast<char>(0x80 | ((character >> (6 * more)) & 0x3F));
  }
}

/// The number of "\uXXXX", if that is what is here.
inline std::optional<std::uint32_t> utf16_escape(const char* at, const char* end) {
  std::uint32_t unit = 0;
  if (end - at < 6 || at[0] != '\\' || at[1] != 'u') return {};
  if (std::from_chars(at + 2, at + 6, unit, 16).ptr != at + 6) return {};
  return unit;
}

/// Appends what an escape stands for. @return where it ends, or `at` if there is none
inline const char* read_escape(const char* at, const char* end, std::string& text) {
  constexpr std::string_view names = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
  if (end - at < 2) return at;
  if (const auto known = names.find(at[1]); known != std::string_view::npos) {
    text += meanings[known];
    return at + 2;
  }
  const auto unit = utf16_escape(at, end);
  if (!unit || (*unit >= 0xDC00 && *unit <= 0xDFFF)) return at;
  if (*unit < 0xD800 || *unit > 0xDFFF) {
    append_utf8(*unit, text);
    return at + 6;
  }
  const auto low = utf16_escape(at + 6, end);
  if (!low || *low < 0xDC00 || *low > 0xDFFF) return at;
  append_utf8(0x10000 + ((*unit - 0xD800) << 10) + (*low - 0xDC00), text);
  return at + 12;
}

/// Reads what a JSON text holds. @param at behind its first quote
/// @return where its last one is, or what no text can have, or the end
inline const char* read_text(const char* at, const char* end, std::string& text) {
  const char* last = at;
  while (last < end && *last != '"') {
    last += *last == '\\' && end - last > 1 ? 2 : 1;
  }
  text.clear();
  text.reserve(static_cast<std::size_t>(last - at));  // what it stands for is never longer
  while (at != end && *at != '"' && static_cast<unsigned char>(*at) >= 0x20) {
    if (*at == '\\') {
      const char* next = read_escape(at, end, text);
      if (next == at) return at;
      at = next;
    } else {
      text += *at++;
    }
  }
  return at;
}

/// The characters of a header for a parser that keeps all of the text, number or blanks that it is
/// in, in memory that it doubles. So it gets less: of a text the quotes, and what they hold is in
/// text(); of many digits as many as tell that a number is out of range; of blanks the first.
class HeaderText {
 public:
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = char;
    using difference_type = std::ptrdiff_t;
    using pointer = const char*;
    using reference = const char&;

    explicit Iterator(HeaderText* header) : header_(header) {}

    reference operator*() const { return *header_->at_; }
    Iterator& operator++() {
      header_->advance();
      return *this;
    }
    bool operator==(const Iterator& other) const { return is_end() == other.is_end(); }

   private:
    bool is_end() const { return header_ == nullptr || header_->at_ == header_->end_; }

    HeaderText* header_;
  };

  explicit HeaderText(std::string_view header)
      : begin_(header.data()), at_(begin_), end_(begin_ + header.size()) {}

  Iterator begin() { return Iterator(this); }
  static Iterator end() { return Iterator(nullptr); }

  /// What the last text holds whose first quote was passed.
  const std::string& text() const { return text_; }

  /// Bytes of the header that were passed.
  std::size_t position() const { return static_cast<std::size_t>(at_ - begin_); }

 private:
  static constexpr int most_digits = 400;  // the largest double has 309

  static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }

  void advance() {
    const char c = *at_++;
    digits_ = is_digit(c) ? digits_ + 1 : 0;
    if (is_text_) {
      is_text_ = c != '"';
    } else if (c == '"') {
      at_ = read_text(at_, end_, text_);
      is_text_ = true;
    } else if (is_blank(c)) {
      pass_over(is_blank);
    } else if (digits_ == most_digits) {
      pass_over(is_digit);
    }
  }
  void pass_over(bool (*is_more)(char)) {
    while (at_ != end_ && is_more(*at_)) {
      ++at_;
    }
  }

  const char* begin_;
  const char* at_;
  const char* end_;
  std::string text_;
  bool is_text_ = false;
  int digits_ = 0;  // one after the other
};

}  // namespace loraplus::detail
