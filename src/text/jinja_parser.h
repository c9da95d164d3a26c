// The syntax tree of a template. One node type each for expressions and statements: the evaluator
// switches on kind.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace qad::text::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum Kind {
    kConstant,   // value
    kName,       // name
    kList,       // children
    kTuple,      // children
    kDict,       // children: key, value, key, value, ...
    kAttribute,  // children[0] . name
    kSubscript,  // children[0] [ children[1] ]
    kSlice,      // children[0] [ 1 : 2 : 3 ], absent parts null
    kCall,       // children[0] ( children[1:], named )
    kFilter,     // children[0] | name ( children[1:], named ); children[0] null in {% filter %} and
                 // block set
    kTest,       // children[0] is name ( children[1:] )
    kUnary,      // name: - + not
    kBinary,     // name: + - * / // % **
    kConcat,     // children joined by ~
    kCompare,    // children[0] operators[0] children[1] operators[1] ...
    kAnd,
    kOr,
    kConditional,  // children: condition, then, else or null
  } kind;
  int line = 0;
  int depth = 1;
  std::string name;
  Value value;
  std::vector<ExprPtr> children;
  std::vector<std::pair<std::string, ExprPtr>> named;
  std::vector<std::string> operators;
};

struct Stmt;
using Body = std::vector<Stmt>;

struct Stmt {
  enum Kind {
    kText,        // text
    kPrint,       // expr
    kIf,          // branches (condition null: else)
    kFor,         // target in expr if condition: body, else_body
    kSet,         // target = expr
    kSetBlock,    // target = body, through the filters of expr
    kMacro,       // text(parameters): body
    kCall,        // {% call(parameters) expr %}: body
    kFilter,      // expr applied to body
    kGeneration,  // body
    kWith,        // parameters: body
    kBreak,
    kContinue,
  } kind = kText;
  int line = 0;
  std::string text;
  ExprPtr target, expr, condition;
  std::vector<std::pair<std::string, ExprPtr>> parameters;  // defaults may be null
  std::vector<std::pair<ExprPtr, Body>> branches;
  Body body, else_body;
};

// Throws Error "[chat_template] line N: ..." naming what is malformed or unsupported.
Body parse(std::string_view source);

}  // namespace qad::text::jinja
