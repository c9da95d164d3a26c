// Requests as OpenAI's API reference has them: defaults, limits, forms, and what must be refused.
#include "serve/call.h"

#include <gmock/gmock.h>

#include "serve/api_error.h"

namespace qad::serve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Json chat() {
  return {{"model", "m"}, {"messages", {{{"role", "user"}, {"content", "Hi"}}}}};
}
Json completion() {
  return {{"model", "m"}, {"prompt", "Hi"}};
}

Call parse(Json json, const Json& more = Json::object()) {
  json.update(more);
  const bool is_chat = json.contains("messages");
  return parse_call(is_chat ? Endpoint::chat : Endpoint::completions, json.dump());
}

ApiError refusal(const Json& json, const Json& more = Json::object()) {
  try {
    parse(json, more);
  } catch (const ApiError& e) {
    return e;
  }
  return ApiError(200, "accepted");
}

TEST(Call, HasTheDefaultsOfTheApi) {
  const Call c = parse(chat());
  EXPECT_EQ(c.model, "m");
  EXPECT_EQ(c.messages, chat()["messages"]);
  EXPECT_EQ(c.sampling.temperature, 1);
  EXPECT_EQ(c.sampling.top_p, 1);
  EXPECT_EQ(c.samples, 1);
  EXPECT_FALSE(c.max_tokens || c.seed || c.logprobs || c.stream || c.echo || c.include_usage);
  // null is as good as nothing, for every parameter
  EXPECT_EQ(parse(chat(), {{"temperature", nullptr}, {"tools", nullptr}, {"n", nullptr}}).samples,
            1);
}

TEST(Call, ReadsWhatIsAskedFor) {
  const Call c = parse(chat(), {{"temperature", 0.5},
                                {"top_p", 0.9},
                                {"top_k", 40},
                                {"min_p", 0.1},
                                {"repetition_penalty", 1.1},
                                {"stop", {"a", "b"}},
                                {"stop_token_ids", {7}},
                                {"seed", -1},
                                {"n", 3},
                                {"max_completion_tokens", 9},
                                {"logprobs", true},
                                {"top_logprobs", 5},
                                {"stream", true},
                                {"stream_options", {{"include_usage", true}}},
                                {"user", "me"}});
  EXPECT_EQ(c.sampling.temperature, 0.5);
  EXPECT_EQ(c.sampling.top_p, 0.9);
  EXPECT_EQ(c.sampling.top_k, 40);
  EXPECT_EQ(c.sampling.min_p, 0.1);
  EXPECT_EQ(c.sampling.repetition_penalty, 1.1);
  EXPECT_THAT(c.sampling.stop, ElementsAre("a", "b"));
  EXPECT_THAT(c.sampling.stop_tokens, ElementsAre(7));
  EXPECT_EQ(c.seed, ~std::uint64_t{0});
  EXPECT_EQ(c.samples, 3);
  EXPECT_EQ(c.max_tokens, 9);
  EXPECT_EQ(c.logprobs, 5);
  EXPECT_TRUE(c.stream && c.include_usage);
  EXPECT_THAT(parse(chat(), {{"stop", "a"}}).sampling.stop, ElementsAre("a"));
  EXPECT_EQ(parse(chat(), {{"top_k", -1}}).sampling.top_k, 0);  // as vLLM has it: all
}

TEST(Call, PromptsAreTextsOrTokensOrListsOfThem) {
  using Ids = std::vector<text::TokenId>;
  const auto prompts = [](Json prompt) {
    return parse(completion(), {{"prompt", prompt}}).prompts;
  };
  EXPECT_THAT(prompts("a"), ElementsAre(Prompt("a")));
  EXPECT_THAT(prompts({"a", "b"}), ElementsAre(Prompt("a"), Prompt("b")));
  EXPECT_THAT(prompts({1, 2}), ElementsAre(Prompt(Ids{1, 2})));
  EXPECT_THAT(prompts(Json::array({Json::array({1, 2}), Json::array({3})})),
              ElementsAre(Prompt(Ids{1, 2}), Prompt(Ids{3})));
  for (const Json& bad : {Json::array(), Json(1), Json({1, "a"}), Json({1.5}), Json({-1}),
                          Json(Json::object()), Json({true})})
    EXPECT_EQ(refusal(completion(), {{"prompt", bad}}).param, "prompt") << bad;
  const Call c = parse(completion(), {{"echo", true}, {"logprobs", 0}, {"max_tokens", 0}});
  EXPECT_TRUE(c.echo);
  EXPECT_EQ(c.logprobs, 0);
  EXPECT_EQ(c.max_tokens, 0);
  EXPECT_EQ(parse(completion(), {{"n", 2}, {"best_of", 2}}).samples, 2);
}

TEST(Call, MessagesAreTextsOrPartsOfText) {
  const Json parts = {{{"type", "text"}, {"text", "a"}}, {{"type", "text"}, {"text", "b"}}};
  const Json messages = {{{"role", "developer"}, {"content", "be brief"}},
                         {{"role", "user"}, {"content", parts}, {"name", "Ann"}}};
  const Json expected = {{{"role", "system"}, {"content", "be brief"}},
                         {{"role", "user"}, {"content", "a\nb"}, {"name", "Ann"}}};
  EXPECT_EQ(parse(chat(), {{"messages", messages}}).messages, expected);
}

struct Refused {
  Json more;
  const char* param;
  const char* says;
};

TEST(Call, RefusesByName) {
  const Json image = {{{"type", "image_url"}, {"image_url", {{"url", "x"}}}}};
  const Refused of_chat[] = {
      {{{"temperature", 2.1}}, "temperature", "from 0 to 2, found 2.1"},
      {{{"temperature", "hot"}}, "temperature", "\"hot\""},
      {{{"top_p", 0}}, "top_p", "above 0"},
      {{{"top_p", 1.1}}, "top_p", "from 0 to 1"},
      {{{"n", 0}}, "n", "from 1 to 128"},
      {{{"n", 1.5}}, "n", "whole number"},
      {{{"seed", 18446744073709551615u}}, "seed", "whole number"},
      {{{"max_tokens", 0}}, "max_tokens", "at least 1"},
      {{{"max_tokens", -1}}, "max_tokens", "from 0"},
      {{{"max_tokens", 5}, {"max_completion_tokens", 6}}, "max_completion_tokens", "says 5"},
      {{{"stop", {"a", "b", "c", "d", "e"}}}, "stop", "no more than 4"},
      {{{"stop", ""}}, "stop", "1 to 1024 bytes"},
      {{{"stop", std::string(1025, 'a')}}, "stop", "1 to 1024 bytes"},
      {{{"stop_token_ids", std::vector<int>(129)}}, "stop_token_ids", "up to 128"},
      {{{"stop", 1}}, "stop", "a text or a list"},
      {{{"stream", "yes"}}, "stream", "true or false"},
      {{{"stream_options", {{"include_usage", true}}}}, "stream_options", "\"stream\": true"},
      {{{"stream", true}, {"stream_options", {{"x", 1}}}}, "stream_options", "include_usage"},
      {{{"top_logprobs", 2}}, "top_logprobs", "\"logprobs\": true"},
      {{{"logprobs", true}, {"top_logprobs", 21}}, "top_logprobs", "from 0 to 20"},
      {{{"frequency_penalty", 0.5}}, "frequency_penalty", "does not support"},
      {{{"presence_penalty", 1}}, "presence_penalty", "does not support"},
      {{{"logit_bias", {{"5", 1}}}}, "logit_bias", "does not support"},
      {{{"response_format", {{"type", "json_object"}}}}, "response_format", "does not support"},
      {{{"tools", {{{"type", "function"}}}}}, "tools", "does not support"},
      {{{"store", true}}, "store", "does not support"},
      {{{"temprature", 1}}, "temprature", "did you mean \"temperature\""},
      {{{"prompt", "a"}}, "prompt", "unknown"},
      {{{"messages", Json::array()}}, "messages", "at least one"},
      {{{"messages", nullptr}}, "messages", "expected"},
      {{{"messages", {{{"content", "a"}}}}}, "messages[0]", "role"},
      {{{"messages", {{{"role", "tool"}, {"content", "a"}}}}}, "messages[0].role", "tools"},
      {{{"messages", {{{"role", "user"}, {"content", image}}}}}, "messages[0].content[0]", "text"},
      {{{"messages", {{{"role", "user"}, {"content", 1}}}}}, "messages[0].content", "parts"},
      {{{"messages", {{{"role", "user"}, {"tool_calls", {1}}}}}},
       "messages[0].tool_calls",
       "leave"},
      {{{"model", nullptr}}, "model", "/v1/models"},
  };
  const Refused of_completion[] = {
      {{{"suffix", "x"}}, "suffix", "does not support"},
      {{{"best_of", 2}}, "best_of", "expected n"},
      {{{"logprobs", 21}}, "logprobs", "from 0 to 20"},
      {{{"logprobs", true}}, "logprobs", "whole number"},
      {{{"prompt", nullptr}}, "prompt", "expected"},
  };
  const auto expect = [](const Json& base, const Refused& r) {
    const ApiError e = refusal(base, r.more);
    EXPECT_EQ(e.status, 400) << r.more;
    EXPECT_EQ(e.param, r.param) << r.more;
    EXPECT_THAT(e.what(), HasSubstr(r.says)) << r.more;
    EXPECT_EQ(e.type, "invalid_request_error");
  };
  for (const Refused& r : of_chat) expect(chat(), r);
  for (const Refused& r : of_completion) expect(completion(), r);
}

TEST(Call, AcceptsWhatAsksForNothing) {
  EXPECT_NO_THROW(parse(chat(), {{"frequency_penalty", 0.0},
                                 {"presence_penalty", 0},
                                 {"logit_bias", Json::object()},
                                 {"response_format", {{"type", "text"}}},
                                 {"tools", Json::array()},
                                 {"tool_choice", "none"},
                                 {"modalities", {"text"}},
                                 {"store", false},
                                 {"metadata", {{"a", "b"}}}}));
  EXPECT_NO_THROW(parse(completion(), {{"suffix", ""}, {"best_of", 1}}));
}

TEST(Call, RefusesBytesThatAreNoRequest) {
  const std::string deep(1000, '[');
  for (const std::string& body :
       {std::string(), std::string("{"), std::string("[]"), std::string("\"\xFF\""), deep,
        std::string("{\"model\":\"\xC3\x28\"}"), std::string("{\"a\":1,\"a\":2}")}) {
    try {
      parse_call(Endpoint::chat, body);
      ADD_FAILURE() << body;
    } catch (const ApiError& e) {
      EXPECT_EQ(e.status, 400);
    }
  }
}

TEST(ApiError, HasTheShapeOfTheApi) {
  ApiError e(404, "no such model");
  e.param = "model";
  EXPECT_EQ(to_json(e), parse_json(R"({"error": {"message": "no such model",
      "type": "invalid_request_error", "param": "model", "code": null}})",
                                   "test"));
  EXPECT_EQ(ApiError(500, "").type, "server_error");
}

}  // namespace
}  // namespace qad::serve
