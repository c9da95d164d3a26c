// Tables of LaTeX's commands.
#include "score/math_commands.h"

#include <algorithm>
#include <map>

namespace qad::score::math {
namespace {

template <std::size_t N>
bool one_of(std::string_view word, const std::string_view (&words)[N]) {
  return std::find(std::begin(words), std::end(words), word) != std::end(words);
}

constexpr std::string_view kDropped[] = {
    "left",           "right",        "big",        "Big",        "bigg",     "Bigg",
    "bigl",           "bigr",         "Bigl",       "Bigr",       "biggl",    "biggr",
    "middle",         "displaystyle", "textstyle",  "limits",     "nolimits", "quad",
    "qquad",          "enspace",      "thinspace",  "rm",         "bf",       "it",
    "boxed",          "fbox",         "bm",         "mathit",     "mathsf",   "mathcal",
    "mathscr",        "underline",    "overline",   "vec",        "hat",      "bar",
    "tilde",          "widehat",      "ensuremath", "nonumber",   "mathord",  "mathstrut",
    "overrightarrow", "scriptstyle",  "mathop",     "boldsymbol", "mathbf",   "small",
    "large"};
constexpr std::string_view kDroppedWithArgument[] = {"phantom",   "hphantom", "vphantom", "color",
                                                     "textcolor", "hspace",   "vspace",   "label"};
constexpr std::string_view kWords[] = {"text",   "mbox",         "hbox",   "textbf",     "textit",
                                       "textrm", "emph",         "texttt", "textnormal", "textsf",
                                       "mathrm", "operatorname", "mathtt", "textup"};

const std::map<std::string_view, std::string_view>& symbols() {
  static const std::map<std::string_view, std::string_view> table = {{"le", "<="},
                                                                     {"leq", "<="},
                                                                     {"leqslant", "<="},
                                                                     {"ge", ">="},
                                                                     {"geq", ">="},
                                                                     {"geqslant", ">="},
                                                                     {"lt", "<"},
                                                                     {"gt", ">"},
                                                                     {"ne", "!="},
                                                                     {"neq", "!="},
                                                                     {"approx", "~"},
                                                                     {"doteq", "="},
                                                                     {"equiv", "="},
                                                                     {"in", "in"},
                                                                     {"to", "->"},
                                                                     {"rightarrow", "->"},
                                                                     {"mapsto", "->"},
                                                                     {"implies", "->"},
                                                                     {"Rightarrow", "->"},
                                                                     {"cdot", "*"},
                                                                     {"times", "*"},
                                                                     {"ast", "*"},
                                                                     {"bullet", "*"},
                                                                     {"div", "/"},
                                                                     {"pm", "pm"},
                                                                     {"mp", "mp"},
                                                                     {"cup", "cup"},
                                                                     {"cap", "cap"},
                                                                     {"setminus", "setminus"},
                                                                     {"backslash", "setminus"},
                                                                     {"lbrace", "\\{"},
                                                                     {"rbrace", "\\}"},
                                                                     {"langle", "\\langle"},
                                                                     {"rangle", "\\rangle"},
                                                                     {"lvert", "|"},
                                                                     {"rvert", "|"},
                                                                     {"vert", "|"},
                                                                     {"mid", "|"},
                                                                     {"lVert", "\\|"},
                                                                     {"rVert", "\\|"},
                                                                     {"colon", ":"},
                                                                     {"circ", "circ"},
                                                                     {"degree", "circ"},
                                                                     {"prime", "'"},
                                                                     {"lbrack", "["},
                                                                     {"rbrack", "]"},
                                                                     {"slash", "/"},
                                                                     {"land", "and"},
                                                                     {"lor", "or"},
                                                                     {"bigcup", "cup"}};
  return table;
}

}  // namespace

bool only_sets_type(std::string_view command) {
  return one_of(command, kDropped);
}
bool drops_argument(std::string_view command) {
  return one_of(command, kDroppedWithArgument);
}
bool holds_words(std::string_view command) {
  return one_of(command, kWords);
}

std::optional<std::string_view> symbol_of(std::string_view command) {
  const auto found = symbols().find(command);
  return found == symbols().end() ? std::nullopt : std::optional(found->second);
}

}  // namespace qad::score::math
