// A table of parameters for each endpoint: what reads them, or what they may be at most since this
// server does not support them. None is ignored but those that are the caller's own notes.
#include "serve/call.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "core/error.h"
#include "core/nearest.h"
#include "serve/api_error.h"

namespace qad::serve {
namespace {

constexpr std::int64_t kMostLogprobs = 20, kMostSamples = 128, kMostStops = 4;
constexpr std::size_t kMostName = 64;  // bytes; what is longer is no slip of the pen
// The decoding thread looks for these at every token of everyone's.
constexpr std::size_t kMostStopBytes = 1024, kMostStopTokens = 128;
constexpr std::int64_t kMostTokens = std::numeric_limits<std::int32_t>::max();

// A parameter's value, which is not null, with its name for what is said of it.
struct Value {
  std::string_view name;
  const Json& json;

  [[noreturn]] void expected(std::string_view what) const {
    std::string found = json.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (found.size() > 80) found = found.substr(0, found.find_last_of(" ,", 80)) + " ...";
    refuse(name, "expected {}, found {}", what, lossless(found));
  }
  bool boolean() const {
    if (!json.is_boolean()) expected("true or false");
    return json.get<bool>();
  }
  const std::string& text() const {
    if (!json.is_string()) expected("a text");
    return json.get_ref<const std::string&>();
  }
  std::int64_t whole(std::int64_t least, std::int64_t most) const {
    const bool fits = json.is_number_integer() &&
                      !(json.is_number_unsigned() &&
                        json.get<std::uint64_t>() > static_cast<std::uint64_t>(kInt64Max));
    if (!fits || json.get<std::int64_t>() < least || json.get<std::int64_t>() > most)
      expected(fmt::format("a whole number from {} to {}", least, most));
    return json.get<std::int64_t>();
  }
  double number(double least, double most) const {
    if (!json.is_number() || !(json.get<double>() >= least) || !(json.get<double>() <= most))
      expected(fmt::format("a number from {} to {}", least, most));
    return json.get<double>();
  }
  // Not supported, so nothing but what asks for nothing.
  void only(std::initializer_list<Json> neutral) const {
    if (std::find(neutral.begin(), neutral.end(), json) == neutral.end())
      refuse(name, "this server does not support it; leave it out");
  }

 private:
  static constexpr std::int64_t kInt64Max = std::numeric_limits<std::int64_t>::max();
  // A cut between characters.
  static std::string lossless(std::string s) {
    while (!s.empty() && (static_cast<unsigned char>(s.back()) & 0xC0) == 0x80) s.pop_back();
    if (!s.empty() && static_cast<unsigned char>(s.back()) >= 0xC0) s.pop_back();
    return s;
  }
};

struct Parameter {
  std::string_view name;
  void (*read)(const Value&, Call&);
};

void nothing(const Value&, Call&) {}

std::vector<std::string> stops_of(const Value& v) {
  std::vector<std::string> stops;
  if (v.json.is_string()) {
    stops.push_back(v.text());
  } else {
    if (!v.json.is_array()) v.expected("a text or a list of texts");
    for (const Json& s : v.json) stops.push_back(Value{v.name, s}.text());
  }
  require(stops.size() <= kMostStops, v.name, "expected no more than {} texts, found {}",
          kMostStops, stops.size());
  for (const std::string& s : stops)
    require(!s.empty() && s.size() <= kMostStopBytes, v.name,
            "expected texts of 1 to {} bytes, found one of {}", kMostStopBytes, s.size());
  return stops;
}

std::vector<text::TokenId> tokens_of(const Value& v) {
  std::vector<text::TokenId> ids;
  for (const Json& id : v.json)
    ids.push_back(static_cast<text::TokenId>(Value{v.name, id}.whole(0, kMostTokens)));
  return ids;
}

// A text, token ids, or a list of either.
std::vector<Prompt> prompts_of(const Value& v) {
  const auto one = [&](const Json& json) -> Prompt {
    const Value item{v.name, json};
    if (json.is_array()) return tokens_of(item);
    return item.text();
  };
  if (v.json.is_string() || (v.json.is_array() && !v.json.empty() && v.json[0].is_number()))
    return {one(v.json)};
  if (!v.json.is_array() || v.json.empty())
    v.expected("a text, a list of token ids, or a list of those that is not empty");
  std::vector<Prompt> prompts;
  for (const Json& json : v.json) prompts.push_back(one(json));
  return prompts;
}

// A text, or parts of one: they become lines, as vLLM and llama.cpp have it.
std::string content_of(const Value& v) {
  if (v.json.is_string()) return v.text();
  if (!v.json.is_array()) v.expected("a text or a list of parts");
  std::string content;
  for (std::size_t i = 0; i < v.json.size(); ++i) {
    const std::string name = fmt::format("{}[{}]", v.name, i);
    const Json& part = v.json[i];
    const bool text = part.is_object() && part.size() == 2 && part.contains("text") &&
                      part.value("type", Json()) == "text";
    if (!text) Value{name, part}.expected("{\"type\": \"text\", \"text\": ...}");
    content += (i == 0 ? "" : "\n") + Value{name, part["text"]}.text();
  }
  return content;
}

// {"role", "content": a text}, and "name" if there is one.
Json message_of(const Json& json, const std::string& where) {
  if (!json.is_object()) Value{where, json}.expected("an object");
  std::string role, content;
  Json who;
  for (const auto& [key, value] : json.items()) {
    const std::string name = key.size() <= kMostName ? fmt::format("{}.{}", where, key) : where;
    const Value v{name, value};
    if (value.is_null()) continue;
    if (key == "role") {
      role = v.text();
      require(role != "tool" && role != "function", name, "this server does not support tools");
      if (role == "developer") role = "system";  // the API's later word for it
    } else if (key == "content") {
      content = content_of(v);
    } else if (key == "name") {
      who = v.text();
    } else {
      refuse(name, "this server does not support it; leave it out");
    }
  }
  require(!role.empty(), where, "expected a role");
  Json message = {{"role", role}, {"content", content}};
  if (!who.is_null()) message["name"] = who;
  return message;
}

constexpr Parameter kCommon[] = {
    {"model", [](const Value& v, Call& c) { c.model = v.text(); }},
    {"stream", [](const Value& v, Call& c) { c.stream = v.boolean(); }},
    {"stream_options",
     [](const Value& v, Call& c) {
       if (!v.json.is_object()) v.expected("an object");
       for (const auto& [key, value] : v.json.items()) {
         require(key == "include_usage", v.name, "{}: unknown; expected include_usage", key);
         c.include_usage =
             !value.is_null() && Value{"stream_options.include_usage", value}.boolean();
       }
     }},
    {"n", [](const Value& v, Call& c) { c.samples = v.whole(1, kMostSamples); }},
    {"seed",
     [](const Value& v, Call& c) {
       constexpr auto kLeast = std::numeric_limits<std::int64_t>::min();
       constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
       c.seed = static_cast<std::uint64_t>(v.whole(kLeast, kMost));
     }},
    {"stop", [](const Value& v, Call& c) { c.sampling.stop = stops_of(v); }},
    {"temperature", [](const Value& v, Call& c) { c.sampling.temperature = v.number(0, 2); }},
    {"top_p",
     [](const Value& v, Call& c) {
       c.sampling.top_p = v.number(0, 1);
       require(c.sampling.top_p > 0, v.name, "expected a number above 0; temperature 0 is greedy");
     }},
    {"max_tokens", [](const Value& v, Call& c) { c.max_tokens = v.whole(0, kMostTokens); }},
    {"top_k",
     [](const Value& v, Call& c) {
       c.sampling.top_k = std::max<std::int64_t>(v.whole(-1, kMostTokens), 0);
     }},
    {"min_p", [](const Value& v, Call& c) { c.sampling.min_p = v.number(0, 1); }},
    {"repetition_penalty",
     [](const Value& v, Call& c) {
       c.sampling.repetition_penalty = v.number(0, 100);
       require(c.sampling.repetition_penalty > 0, v.name, "expected a number above 0");
     }},
    {"stop_token_ids",
     [](const Value& v, Call& c) {
       if (!v.json.is_array() || v.json.size() > kMostStopTokens)
         v.expected(fmt::format("a list of up to {} token ids", kMostStopTokens));
       c.sampling.stop_tokens = tokens_of(v);
     }},
    {"frequency_penalty", [](const Value& v, Call&) { v.only({0}); }},
    {"presence_penalty", [](const Value& v, Call&) { v.only({0}); }},
    {"logit_bias", [](const Value& v, Call&) { v.only({Json::object()}); }},
    // The caller's own notes, by the API's definition without effect on an answer.
    {"user", nothing},
    {"metadata", nothing},
    {"safety_identifier", nothing},
    {"prompt_cache_key", nothing},
};

constexpr Parameter kChat[] = {
    {"messages",
     [](const Value& v, Call& c) {
       if (!v.json.is_array() || v.json.empty()) v.expected("a list of at least one message");
       for (std::size_t i = 0; i < v.json.size(); ++i)
         c.messages.push_back(message_of(v.json[i], fmt::format("messages[{}]", i)));
     }},
    {"max_completion_tokens",  // reads after max_tokens: see parse_call
     [](const Value& v, Call& c) {
       const std::int64_t n = v.whole(1, kMostTokens);
       require(c.max_tokens.value_or(n) == n, v.name, "max_tokens says {}; leave one of them out",
               c.max_tokens.value_or(n));
       c.max_tokens = n;
     }},
    {"logprobs",
     [](const Value& v, Call& c) {
       if (v.boolean()) c.logprobs = 0;
     }},
    {"top_logprobs",
     [](const Value& v, Call& c) {
       const std::int64_t n = v.whole(0, kMostLogprobs);
       require(c.logprobs || n == 0, v.name, "expected \"logprobs\": true beside it");
       if (c.logprobs) c.logprobs = n;
     }},
    {"response_format",
     [](const Value& v, Call&) {
       v.only({{{"type", "text"}}});
     }},
    {"tools", [](const Value& v, Call&) { v.only({Json::array()}); }},
    {"tool_choice",
     [](const Value& v, Call&) {
       v.only({"none", "auto"});
     }},
    {"parallel_tool_calls",
     [](const Value& v, Call&) {
       v.only({true, false});
     }},
    {"functions", [](const Value& v, Call&) { v.only({Json::array()}); }},
    {"function_call",
     [](const Value& v, Call&) {
       v.only({"none", "auto"});
     }},
    {"modalities", [](const Value& v, Call&) { v.only({Json::array({"text"})}); }},
    {"store", [](const Value& v, Call&) { v.only({false}); }},
    {"service_tier",
     [](const Value& v, Call&) {
       v.only({"auto", "default"});
     }},
};

constexpr Parameter kCompletions[] = {
    {"prompt", [](const Value& v, Call& c) { c.prompts = prompts_of(v); }},
    {"echo", [](const Value& v, Call& c) { c.echo = v.boolean(); }},
    {"logprobs", [](const Value& v, Call& c) { c.logprobs = v.whole(0, kMostLogprobs); }},
    {"suffix", [](const Value& v, Call&) { v.only({""}); }},
    {"best_of",
     [](const Value& v, Call& c) {
       require(v.whole(1, kMostSamples) == c.samples, v.name,
               "expected n, which is {}; this server gives every text that it writes", c.samples);
     }},
};

void check_known(const Json& body, std::span<const Parameter> own) {
  std::vector<std::string> known;
  for (const Parameter& p : kCommon) known.emplace_back(p.name);
  for (const Parameter& p : own) known.emplace_back(p.name);
  for (const auto& [key, value] : body.items()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const bool name = key.size() <= kMostName;
    ApiError error(400, name ? fmt::format("{}: unknown parameter{}", key, did_you_mean(key, known))
                             : fmt::format("unknown parameter of {} bytes", key.size()));
    if (name) error.param = key;
    error.code = "unknown_parameter";
    throw error;
  }
}

}  // namespace

Call parse_call(Endpoint endpoint, std::string_view body) {
  Json json;
  try {
    json = parse_json(body, "the request's body");
  } catch (const Error& e) {
    throw ApiError(400, e.what());
  }
  if (!json.is_object()) throw ApiError(400, "the request's body: expected a JSON object");
  Call call;
  call.endpoint = endpoint;
  const std::span<const Parameter> own =
      endpoint == Endpoint::chat ? std::span<const Parameter>(kChat) : kCompletions;
  check_known(json, own);
  // In the tables' order: some are read in the light of others.
  const auto read = [&](std::span<const Parameter> parameters) {
    for (const Parameter& p : parameters) {
      const auto found = json.find(std::string(p.name));
      if (found != json.end() && !found->is_null()) p.read({p.name, *found}, call);
    }
  };
  read(kCommon);
  read(own);
  require(!call.model.empty(), "model", "expected the model's name; GET /v1/models says it");
  const bool chat = endpoint == Endpoint::chat;
  if (chat) require(!call.messages.empty(), "messages", "expected a list of messages");
  if (!chat) require(!call.prompts.empty(), "prompt", "expected a prompt");
  if (chat) require(call.max_tokens.value_or(1) > 0, "max_tokens", "expected at least 1");
  require(!call.include_usage || call.stream, "stream_options", "expected \"stream\": true too");
  return call;
}

}  // namespace qad::serve
