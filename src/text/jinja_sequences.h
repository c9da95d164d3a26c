// The filters that walk over a sequence.
#pragma once

#include "text/jinja_eval.h"

namespace qad::text::jinja {

Value items_of(Interpreter& in, const Value& v, const Args& args);
Value join(Interpreter& in, const Value& v, const Args& args);
Value list_of(Interpreter& in, const Value& v, const Args& args);
Value map_items(Interpreter& in, const Value& v, const Args& args);
Value first(Interpreter& in, const Value& v, const Args& args);
Value last(Interpreter& in, const Value& v, const Args& args);
Value sort(Interpreter& in, const Value& v, const Args& args);
Value unique(Interpreter& in, const Value& v, const Args& args);
Value reverse(Interpreter& in, const Value& v, const Args& args);
Value dictsort(Interpreter& in, const Value& v, const Args& args);
Value minimum(Interpreter& in, const Value& v, const Args& args);
Value maximum(Interpreter& in, const Value& v, const Args& args);
Value sum(Interpreter& in, const Value& v, const Args& args);
Value select(Interpreter& in, const Value& v, const Args& args, bool reject, bool by_attribute);

}  // namespace qad::text::jinja
