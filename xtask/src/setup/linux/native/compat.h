// Included before every mlx-c source on Linux: what mlx-c takes for granted and some compilers do not have.
#pragma once

#ifdef __cplusplus
#include <version>
#ifndef __cpp_lib_format
// gcc before 13 lacks std::format. mlx-c only replaces plain `{}` in two error messages, so that is all there is here.
#include <sstream>
#include <string>
#include <string_view>
namespace std {
inline void format_rest(ostringstream& out, string_view text) {
  out << text;
}
template <class First, class... Rest>
void format_rest(ostringstream& out, string_view text, const First& first, const Rest&... rest) {
  const auto hole = text.find("{}");
  out << text.substr(0, hole);
  if (hole != string_view::npos) {
    out << first;
    format_rest(out, text.substr(hole + 2), rest...);
  }
}
template <class... Args>
string format(string_view text, const Args&... args) {
  ostringstream out;
  format_rest(out, text, args...);
  return out.str();
}
} // namespace std
#endif
#endif

#ifdef __x86_64__
// mlx-c offers its 16-bit accessors on Arm only, but mlx-rs calls them everywhere. They move bits, so any 16-bit type does.
#include <stdint.h>
#define HAS_FLOAT16
#define HAS_BFLOAT16
typedef uint16_t float16_t;
typedef uint16_t bfloat16_t;
#endif
