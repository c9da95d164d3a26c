// The values a template computes with: Python's, as far as chat templates see them. All are
// immutable but for namespaces, because Transformers' sandbox forbids templates to change lists and
// dictionaries.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/error.h"
#include "core/json.h"

namespace qad::text::jinja {

class Value;
class Interpreter;

struct Undefined {
  std::shared_ptr<const std::string> hint;  // what an error says: "'x' is undefined"
  bool operator==(const Undefined&) const { return true; }
};
struct Str {
  std::string text;  // UTF-8
  bool markup =
      false;  // came through `safe` or `escape`: `+` escapes the other side, as markupsafe does
};
struct Sequence {
  enum Kind { kList, kTuple, kRange, kView, kIterator } kind = kList;
  std::vector<Value> items;
  int depth = 1;
};
struct Dict {
  std::vector<std::pair<Value, Value>> items;  // in insertion order
  int depth = 1;
};
struct Namespace {
  std::vector<std::pair<std::string, Value>> items;
};
struct Loop {
  std::shared_ptr<const Sequence> sequence;
  std::size_t index = 0;
  std::optional<std::vector<Value>> last_changed;
};
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};
struct Callable {
  std::string name;
  std::function<Value(Interpreter&, const Args&)> call;
  int depth = 0;
  bool is_macro = false;
};

class Value : public std::variant<Undefined, std::nullptr_t, bool, std::int64_t, double,
                                  std::shared_ptr<const Str>, std::shared_ptr<const Sequence>,
                                  std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
                                  std::shared_ptr<Loop>, std::shared_ptr<const Callable>> {
 public:
  using variant::variant;
  Value(std::string text, bool markup = false)
      : variant(std::make_shared<const Str>(Str{std::move(text), markup})) {}
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(const char* text) : Value(std::string(text)) {}

  bool undefined() const { return index() == 0; }
  bool none() const { return index() == 1; }
  const bool* boolean() const { return std::get_if<bool>(this); }
  const std::int64_t* integer() const { return std::get_if<std::int64_t>(this); }
  const double* real() const { return std::get_if<double>(this); }
  const Str* str() const { return pointee<const Str>(); }
  const Sequence* sequence() const { return pointee<const Sequence>(); }
  const Dict* dict() const { return pointee<const Dict>(); }
  Namespace* space() const { return pointee<Namespace>(); }
  Loop* loop() const { return pointee<Loop>(); }
  const Callable* callable() const { return pointee<const Callable>(); }
  bool number() const { return boolean() || integer() || real(); }
  std::optional<std::int64_t> as_int() const;  // of int and bool
  std::optional<double> as_double() const;     // of int, bool and float

 private:
  template <class T>
  T* pointee() const {
    const auto* p = std::get_if<std::shared_ptr<T>>(this);
    return p ? p->get() : nullptr;
  }
};

// Where evaluation is and what it may still cost. Hostile templates end with an Error, not with the
// machine's memory.
struct Budget {
  int line = 1;
  std::int64_t steps = 5'000'000;  // a node evaluated, or 16 bytes of text made

  template <class... A>
  [[noreturn]] void raise(fmt::format_string<A...> format, A&&... args) const {
    fail("chat_template", "line {}: {}", line, fmt::format(format, std::forward<A>(args)...));
  }
  void spend(std::size_t n) {
    if (n > static_cast<std::size_t>(steps)) raise("the template does more work than is allowed");
    steps -= static_cast<std::int64_t>(n);
  }
};

Value undefined(std::string hint);
Value make_sequence(Budget& budget, std::vector<Value> items,
                    Sequence::Kind kind = Sequence::kList);
Value make_dict(Budget& budget,
                std::vector<std::pair<Value, Value>> items);  // later duplicates win
Value from_json(Budget& budget, const Json& json);

std::string type_name(const Value& v);  // Python's
bool truth(const Value& v);
bool equal(Budget& budget, const Value& a, const Value& b);
// <0, 0, >0; Error when Python cannot order the two.
int compare(Budget& budget, const Value& a, const Value& b, bool ignore_case = false);
const Value* find(Budget& budget, const Dict& dict, const Value& key);
std::string to_str(Budget& budget, const Value& v);  // Python's str()
std::string repr(Budget& budget, const Value& v);
// What `for` walks over: code points of text, keys of a dictionary, nothing for undefined.
std::shared_ptr<const Sequence> iterate(Budget& budget, const Value& v);

}  // namespace qad::text::jinja
