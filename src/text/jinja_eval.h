// Runs a syntax tree over variables. The pieces that mirror Python's library are free functions
// beside it.
#pragma once

#include <initializer_list>

#include "text/chat_template.h"
#include "text/jinja_parser.h"
#include "text/jinja_value.h"

namespace qad::text::jinja {

struct Scope {
  std::vector<std::pair<std::string_view, Value>> variables;  // names live in the syntax tree
  std::shared_ptr<Scope> outer;
};

class Interpreter {
 public:
  explicit Interpreter(const Json& variables);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  Rendered run(const Body& body);
  Value call(const Value& callee, const Args& args);
  Value make_namespace(const Args& args);

  Budget budget;

 private:
  enum class Flow { kNext, kBreak, kContinue };
  struct Deeper {  // counts recursion and work
    explicit Deeper(Interpreter& in) : self(in) {
      if (++in.depth_ > kMaxDepth)
        in.budget.raise("evaluation nested deeper than {} levels", kMaxDepth);
      in.budget.spend(1);
    }
    ~Deeper() { --self.depth_; }
    Interpreter& self;
  };
  static constexpr int kMaxDepth = 1000;  // macro calls included

  Flow exec(const Body& body);
  Flow exec(const Stmt& s);
  Flow exec_for(const Stmt& s);
  std::string capture(const Body& body, std::shared_ptr<Scope> scope);
  void assign(const Expr& target, Value value);
  Value macro(const Stmt& s, std::string name);
  void write(std::string_view text);

  Value eval(const Expr& e);
  Value eval_call(const Expr& e);
  Value eval_compare(const Expr& e);
  Value eval_filter(const Expr& e, const Value& input);
  Value filter_block(const Expr& e, const Value& text);
  Args eval_args(const Expr& e);
  Value lookup(const std::string& name) const;
  void set(std::string_view name, Value value);

  std::shared_ptr<Scope> scope_;
  std::string text_;           // the result
  std::string* out_ = &text_;  // where output goes: the result, or a block being captured
  std::vector<std::pair<std::size_t, std::size_t>> generated_;
  int depth_ = 0;
  // Cycles (a macro in the scope it closes over, a namespace in itself) are cut here at the end.
  std::vector<std::shared_ptr<Scope>> closures_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

Value function(std::string name, std::function<Value(Interpreter&, const Args&)> f, int depth = 0);

constexpr std::size_t kMaxOutput = 64u << 20;

// Arguments by position or name, in the order of `names`; absent ones are null. Error for any that
// are left over.
std::vector<const Value*> bind(Budget& budget, std::string_view what, const Args& args,
                               std::initializer_list<std::string_view> names);
std::int64_t to_int(Budget& budget, std::string_view what, const Value& v);

// v as text: its own when it is a string, else printed into `storage`.
std::string_view text_of(const Value& v, std::string& storage, Budget& budget);

Value attribute(Interpreter& in, const Value& object, const std::string& name);  // object.name
Value subscript(Interpreter& in, const Value& object, const Value& key);         // object[key]
Value slice(Budget& budget, const Value& object, const Value& start, const Value& stop,
            const Value& step);
Value binary(Budget& budget, const std::string& op, const Value& a, const Value& b);
bool contains(Budget& budget, const Value& container, const Value& item);
std::string percent_format(Budget& budget, const std::string& format, const Value& argument);

// The bound method `name` of a string, list or dictionary; undefined when templates may not use it
// or there is none.
Value method(Interpreter& in, const Value& self, const std::string& name);
Value global(const std::string&
                 name);  // range, namespace, dict, raise_exception, strftime_now; or undefined
Value apply_filter(Interpreter& in, const std::string& name, const Value& input, const Args& args);
bool apply_test(Interpreter& in, const std::string& name, const Value& input, const Args& args);
std::string to_json(Budget& budget, const Value& v, const Args& args);

}  // namespace qad::text::jinja
