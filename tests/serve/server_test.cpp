// The server over its sockets, with the demo's model: answers against what generate() writes alone,
// and clients that err, wait, do not read or go away.
#include "serve/server.h"

#include <gmock/gmock.h>
#include <httplib.h>

#include <thread>

#include "core/error.h"
#include "generate/generate.h"
#include "serve/raw_client.h"
#include "text/chat_template.h"

namespace qad::serve {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr const char* kCompletions = "/v1/completions";
constexpr const char* kChat = "/v1/chat/completions";
const std::string kBegin = "Once upon a time";

recipe::LoadedModel& model() {
  static recipe::LoadedModel loaded = [] {
    auto m = recipe::load_model(fs::path(QAD_SOURCE_DIR) / "data/stories260k/stories260K.bin",
                                models::placement_of("cpu"));
    m.tokenizer.chat_template =
        "{% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no such role') }}"
        "{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";
    return m;
  }();
  return loaded;
}

ServeOptions options() {
  ServeOptions o;
  o.port = 0;
  o.name = "tiny";
  o.quiet = true;
  o.most_clients = 32;
  o.cache_bytes = 32e6;
  return o;
}

// What the model writes when it is alone, without an engine.
std::string alone(const std::string& prompt, generate::SamplingOptions sampling) {
  std::string text;
  generate::generate_text(model().model, model().tokenizer, model().tokenizer.encode(prompt),
                          sampling, [&](const std::string& piece) { text += piece; });
  return text;
}

Json greedy(const std::string& prompt, std::int64_t tokens, const Json& more = Json::object()) {
  Json json = {{"model", "tiny"}, {"prompt", prompt}, {"max_tokens", tokens}, {"temperature", 0}};
  json.update(more);
  return json;
}
// The same model with room for long texts, which nothing ends early: tests that need a text under
// way must not depend on how soon a machine comes to its end.
recipe::LoadedModel& endless_model() {
  static recipe::LoadedModel loaded = [] {
    auto m = recipe::load_model(fs::path(QAD_SOURCE_DIR) / "data/stories260k/stories260K.bin",
                                models::placement_of("cpu"));
    m.model.config.max_positions = 1 << 20;
    m.model.config.eos.clear();
    return m;
  }();
  return loaded;
}

ServeOptions endless_options() {
  ServeOptions o = options();
  o.most_tokens = 1 << 20;
  o.cache_bytes = 1e9;  // of the address space; what is written takes memory
  return o;
}

constexpr int kMany = 128;
constexpr int kLong = 10000;  // minutes of work for kMany texts: nobody waits for their end

Json endless_text(bool stream) {
  return {{"model", "tiny"},
          {"prompt", kBegin},
          {"max_tokens", kLong},
          {"n", kMany},
          {"stream", stream}};
}

struct Response {
  int status = 0;
  Json json;
  httplib::Headers headers;
};

class Client {
 public:
  explicit Client(const Server& server) : client_("127.0.0.1", server.port()) {
    client_.set_read_timeout(60);
  }
  Response post(const std::string& path, const Json& json, httplib::Headers headers = {}) {
    return read(client_.Post(path, headers, json.dump(), "application/json"));
  }
  Response get(const std::string& path, httplib::Headers headers = {}) {
    return read(client_.Get(path, headers));
  }
  std::string text(const std::string& path) { return client_.Get(path)->body; }
  // A number of /metrics.
  double metric(const std::string& name) {
    const std::string all = text("/metrics");
    const std::size_t at = all.find("\n" + name + " ");
    return at == all.npos ? -1 : std::stod(all.substr(at + name.size() + 2));
  }
  // Whether it becomes `value` within twenty seconds.
  bool becomes(const std::string& name, double value) {
    for (int i = 0; i < 2000; ++i) {
      if (metric(name) == value) return true;
      std::this_thread::sleep_for(milliseconds(10));
    }
    return false;
  }

 private:
  static Response read(const httplib::Result& result) {
    if (!result) return {};
    return {result->status, parse_json(result->body, "an answer"), result->headers};
  }
  httplib::Client client_;
};

// The JSON of each event; the last is [DONE].
std::vector<Json> events_of(const std::string& body) {
  std::vector<Json> events;
  std::istringstream lines(body);
  bool done = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) continue;
    EXPECT_THAT(line, StartsWith("data: "));
    EXPECT_FALSE(done) << line;
    done = line == "data: [DONE]";
    if (!done) events.push_back(parse_json(line.substr(6), "an event"));
  }
  EXPECT_TRUE(done);
  return events;
}

std::string stream(const Server& server, const std::string& path, Json json) {
  httplib::Client client("127.0.0.1", server.port());
  client.set_read_timeout(60);
  json["stream"] = true;
  const auto result = client.Post(path, json.dump(), "application/json");
  if (!result) return {};
  EXPECT_EQ(result->get_header_value("Content-Type"), "text/event-stream");
  return result->body;
}

TEST(Server, SaysWhatItHas) {
  const Server server(model(), options());
  Client client(server);
  EXPECT_EQ(client.get("/health").status, 200);
  const Json list = client.get("/v1/models").json;
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"][0]["id"], "tiny");
  EXPECT_EQ(list["data"][0]["object"], "model");
  EXPECT_EQ(client.get("/v1/models/tiny").json["id"], "tiny");
  EXPECT_EQ(client.get("/v1/models/huge").json["error"]["code"], "model_not_found");
  EXPECT_EQ(client.get("/v1/models/huge").status, 404);
  EXPECT_EQ(client.get("/v1/nothing").status, 404);
  EXPECT_EQ(client.get(kChat).status, 405);
  EXPECT_THAT(server.url(), ::testing::MatchesRegex("http://127.0.0.1:[0-9]+/v1"));
  EXPECT_TRUE(client.becomes("qad_http_requests_total{path=\"/v1/models\",status=\"200\"}", 1));
  EXPECT_TRUE(client.becomes("qad_http_requests_total{path=\"other\",status=\"404\"}", 1));
}

TEST(Server, WritesWhatTheModelWritesAlone) {
  const Server server(model(), options());
  Client client(server);
  const std::string expected = alone(kBegin, {.max_tokens = 40});
  const Json whole = client.post(kCompletions, greedy(kBegin, 40)).json;
  EXPECT_EQ(whole["object"], "text_completion");
  EXPECT_EQ(whole["model"], "tiny");
  EXPECT_EQ(whole["choices"][0]["text"], expected);
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(whole["choices"][0]["logprobs"], nullptr);
  const auto prompt = model().tokenizer.encode(kBegin);
  EXPECT_EQ(whole["usage"]["prompt_tokens"], prompt.size());
  EXPECT_EQ(whole["usage"]["completion_tokens"], 40);
  EXPECT_EQ(whole["usage"]["total_tokens"], prompt.size() + 40);
  // Token ids as a prompt, its echo, and the API's default length.
  Json ids = greedy("", 40, {{"prompt", prompt}, {"echo", true}});
  EXPECT_EQ(client.post(kCompletions, ids).json["choices"][0]["text"], kBegin + expected);
  ids.erase("max_tokens");
  EXPECT_EQ(client.post(kCompletions, ids).json["usage"]["completion_tokens"], 16);
  // A prompt of which the cache has pages already.
  const std::string longer = kBegin + expected;
  client.post(kCompletions, greedy(longer, 2));
  const Json again = client.post(kCompletions, greedy(longer, 2)).json;
  EXPECT_GE(again["usage"]["prompt_tokens_details"]["cached_tokens"], 32);
  EXPECT_EQ(again["choices"][0]["text"], alone(longer, {.max_tokens = 2}));
}

TEST(Server, StreamsTheSameText) {
  const Server server(model(), options());
  const std::string expected = alone(kBegin, {.max_tokens = 40});
  const auto events = events_of(stream(
      server, kCompletions, greedy(kBegin, 40, {{"stream_options", {{"include_usage", true}}}})));
  std::string text, finish;
  for (std::size_t i = 0; i + 1 < events.size(); ++i) {
    const Json& choice = events[i]["choices"][0];
    text += choice["text"].get<std::string>();
    EXPECT_EQ(events[i]["usage"], nullptr);
    EXPECT_EQ(choice["finish_reason"].is_null(), i + 2 < events.size());
  }
  EXPECT_EQ(text, expected);
  EXPECT_TRUE(events.back()["choices"].empty());
  EXPECT_EQ(events.back()["usage"]["completion_tokens"], 40);
}

TEST(Server, AnswersChats) {
  const Server server(model(), options());
  Client client(server);
  const Json messages = {{{"role", "developer"}, {"content", "Tell stories."}},
                         {{"role", "user"}, {"content", "One day"}}};
  const std::string prompt = "system: Tell stories.\nuser: One day\nassistant:";
  const auto ids = model().tokenizer.encode(prompt, false);
  std::string expected;
  generate::generate_text(model().model, model().tokenizer, ids, {.max_tokens = 20},
                          [&](const std::string& piece) { expected += piece; });
  const Json body = {
      {"model", "tiny"}, {"messages", messages}, {"max_completion_tokens", 20}, {"temperature", 0}};
  const Json whole = client.post(kChat, body).json;
  EXPECT_EQ(whole["object"], "chat.completion");
  EXPECT_EQ(whole["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(whole["choices"][0]["message"]["content"], expected);
  EXPECT_EQ(whole["usage"]["prompt_tokens"], ids.size());
  const auto events = events_of(stream(server, kChat, body));
  EXPECT_EQ(events[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
  std::string text;
  for (const Json& e : events) text += e["choices"][0]["delta"].value("content", "");
  EXPECT_EQ(text, expected);
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "length");
  // The template's own refusal.
  const Json bad = {{"model", "tiny"}, {"messages", {{{"role", "bad"}, {"content", "x"}}}}};
  const Response refused = client.post(kChat, bad);
  EXPECT_EQ(refused.status, 400);
  EXPECT_THAT(refused.json["error"]["message"].get<std::string>(), HasSubstr("no such role"));
  EXPECT_EQ(refused.json["error"]["param"], "messages");
}

TEST(Server, DrawsBySeed) {
  const Server server(model(), options());
  Client client(server);
  const Json body = {{"model", "tiny"},  {"prompt", {kBegin, "The dog"}},
                     {"n", 3},           {"seed", 7},
                     {"max_tokens", 20}, {"temperature", 0.9},
                     {"top_p", 0.95}};
  const Json choices = client.post(kCompletions, body).json["choices"];
  ASSERT_EQ(choices.size(), 6);
  for (std::size_t i = 0; i < 6; ++i) {
    generate::SamplingOptions sampling{.max_tokens = 20, .temperature = 0.9, .top_p = 0.95};
    sampling.seed = generate::sample_seed(7, static_cast<std::int64_t>(i / 3),
                                          static_cast<std::int64_t>(i % 3));
    EXPECT_EQ(choices[i]["index"], i);
    EXPECT_EQ(choices[i]["text"], alone(i < 3 ? kBegin : "The dog", sampling)) << i;
  }
  // Without a seed every call draws anew.
  Json free = greedy(kBegin, 60, {{"temperature", 1}});
  EXPECT_NE(client.post(kCompletions, free).json["choices"][0]["text"],
            client.post(kCompletions, free).json["choices"][0]["text"]);
}

TEST(Server, LogProbabilitiesGoWithTheText) {
  const Server server(model(), options());
  Client client(server);
  const std::string text = alone(kBegin, {.max_tokens = 30});
  const std::string stop = text.substr(text.size() / 2, 6);
  const std::string expected = text.substr(0, text.find(stop));
  for (const bool echo : {false, true}) {
    const Json body = greedy(kBegin, 30, {{"logprobs", 2}, {"stop", stop}, {"echo", echo}});
    const Json choice = client.post(kCompletions, body).json["choices"][0];
    const std::string whole = (echo ? kBegin : "") + expected;
    EXPECT_EQ(choice["text"], whole);
    EXPECT_EQ(choice["finish_reason"], "stop");
    const Json& l = choice["logprobs"];
    const std::size_t n = l["tokens"].size();
    EXPECT_EQ(l["token_logprobs"].size(), n);
    EXPECT_EQ(l["top_logprobs"].size(), n);
    EXPECT_EQ(l["text_offset"].size(), n);
    for (std::size_t i = echo ? 2 : 0; i < n; ++i) {  // of an echo first BOS, then a stripped space
      const auto token = l["tokens"][i].get<std::string>();
      const auto offset = l["text_offset"][i].get<std::size_t>();
      ASSERT_LT(offset, whole.size());
      EXPECT_THAT(whole.substr(offset) + stop, StartsWith(token.substr(0, whole.size() - offset)));
      EXPECT_EQ(l["token_logprobs"][i], l["top_logprobs"][i].front());  // greedy: the likeliest
    }
    if (echo) {
      EXPECT_EQ(l["token_logprobs"][0], nullptr);
    }
  }
  // A prompt alone, measured.
  const Json measured =
      client.post(kCompletions, greedy(kBegin, 0, {{"logprobs", 0}, {"echo", true}})).json;
  EXPECT_EQ(measured["choices"][0]["text"], kBegin);
  EXPECT_EQ(measured["choices"][0]["logprobs"]["tokens"].size(),
            model().tokenizer.encode(kBegin).size());
  EXPECT_EQ(measured["usage"]["completion_tokens"], 0);
  // The chat's form, streamed.
  const Json chat = {{"model", "tiny"},   {"messages", {{{"role", "user"}, {"content", "Hi"}}}},
                     {"max_tokens", 10},  {"logprobs", true},
                     {"top_logprobs", 1}, {"temperature", 0}};
  std::string bytes, said;
  for (const Json& e : events_of(stream(server, kChat, chat))) {
    const Json& choice = e["choices"][0];
    said += choice["delta"].value("content", "");
    if (choice["logprobs"].is_null()) continue;
    for (const Json& token : choice["logprobs"]["content"]) {
      for (const Json& b : token["bytes"]) bytes += static_cast<char>(b.get<int>());
      EXPECT_EQ(token["top_logprobs"][0]["token"], token["token"]);
    }
  }
  EXPECT_EQ(bytes, said);
}

TEST(Server, ClientsAtOnceGetTheirOwnTexts) {
  ServeOptions o = options();
  o.batch_size = 8;
  const Server server(model(), o);
  constexpr std::size_t kClients = 24;
  std::vector<std::string> prompts, texts(kClients), expected;
  for (std::size_t i = 0; i < kClients; ++i) {
    prompts.push_back(kBegin.substr(0, 3 + i % 12));
    expected.push_back(alone(prompts.back(), {.max_tokens = 20 + static_cast<std::int64_t>(i)}));
  }
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kClients; ++i)
    threads.emplace_back([&, i] {
      const Json body = greedy(prompts[i], 20 + static_cast<std::int64_t>(i));
      for (const Json& e : events_of(stream(server, kCompletions, body)))
        texts[i] += e["choices"][0]["text"].get<std::string>();
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(texts, expected);
  Client client(server);
  EXPECT_LT(client.metric("qad_passes_total"), client.metric("qad_generated_tokens_total") / 2);
  // A client has its last bytes before the server has counted it.
  EXPECT_TRUE(client.becomes("qad_texts_running", 0));
  EXPECT_EQ(client.metric("qad_time_to_first_token_seconds_count"), kClients);
  EXPECT_TRUE(client.becomes("qad_request_duration_seconds_count", kClients));
}

TEST(Server, RefusesInTheApisShape) {
  ServeOptions o = options();
  o.most_prompt = 20;
  o.most_tokens = 100;
  o.most_body = 1000;
  const Server server(model(), o);
  Client client(server);
  const auto error = [&](const Json& body, int status) {
    const Response r = client.post(kCompletions, body);
    EXPECT_EQ(r.status, status) << body;
    return r.json["error"];
  };
  EXPECT_EQ(error(greedy("a", 1, {{"model", "gpt"}}), 404)["code"], "model_not_found");
  EXPECT_EQ(error(greedy("a", 101), 400)["param"], "max_tokens");
  const std::string many = alone(kBegin, {.max_tokens = 40});
  EXPECT_EQ(error(greedy(many, 1), 400)["code"], "context_length_exceeded");
  EXPECT_EQ(error(greedy("", 1, {{"prompt", {512}}}), 400)["param"], "prompt");
  EXPECT_EQ(error(greedy("a", 1, {{"user", std::string(1000, 'x')}}), 413)["type"],
            "invalid_request_error");
  EXPECT_EQ(error(greedy("a", 1, {{"presence_penalty", 1}}), 400)["param"], "presence_penalty");
  EXPECT_EQ(error(Json::array(), 400)["param"], nullptr);
  EXPECT_EQ(client.post(kCompletions, greedy("a", 1)).status, 200);  // on the same connection

  // Without a length, in chunks: 413 once there is too much of it.
  RawClient chunked(server.port());
  chunked.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n3e9\r\n" +
      std::string(1001, ' ') + "\r\n0\r\n\r\n");
  EXPECT_THAT(chunked.read_all(), StartsWith("HTTP/1.1 413"));
  RawClient form(server.port());
  form.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_THAT(form.read_all(), StartsWith("HTTP/1.1 415"));
}

TEST(Server, WantsItsKey) {
  ServeOptions o = options();
  o.api_key = "secret";
  const Server server(model(), o);
  Client client(server);
  EXPECT_EQ(client.get("/health").status, 200);
  for (const char* path : {"/v1/models", "/metrics"}) {
    const httplib::Headers wrong = {{"Authorization", "Bearer secrex"}};
    EXPECT_EQ(client.get(path, wrong).json["error"]["code"], "invalid_api_key");
  }
  const Response refused = client.post(kCompletions, greedy("a", 1));
  EXPECT_EQ(refused.status, 401);
  EXPECT_EQ(refused.headers.find("WWW-Authenticate")->second, "Bearer");
  const httplib::Headers right = {{"Authorization", "Bearer secret"}};
  EXPECT_EQ(client.post(kCompletions, greedy("a", 1), right).status, 200);

  ServeOptions others = options();
  others.host = "0.0.0.0";
  EXPECT_THROW(Server(model(), others), Error);
  EXPECT_NO_THROW(Server(model(), others, /*open=*/true));
  others.api_key = "secret";
  EXPECT_NO_THROW(Server(model(), others));
  others.host = "127.0.0.1";
  others.port = server.port();
  EXPECT_THROW(Server(model(), others), Error);  // taken
}

TEST(Server, AFullQueueIs429) {
  ServeOptions o = endless_options();
  o.batch_size = 100;
  o.most_waiting = 30;
  const Server server(endless_model(), o);
  Client client(server);
  RawClient busy(server.port());
  busy.post(kCompletions, endless_text(true).dump());
  EXPECT_THAT(busy.read_until("data: "), HasSubstr("200 OK"));
  const Response full = client.post(kCompletions, greedy("a", 1, {{"n", 3}}));
  EXPECT_EQ(full.status, 429);
  EXPECT_EQ(full.json["error"]["code"], "rate_limit_exceeded");
  EXPECT_EQ(full.headers.find("Retry-After")->second, "1");
  const Json prompts = std::vector<std::string>(131, "a");
  EXPECT_EQ(client.post(kCompletions, greedy("", 1, {{"prompt", prompts}})).status, 400);
  RawClient fits(server.port());
  fits.post(kCompletions, greedy("a", 1, {{"n", 2}}).dump());
  EXPECT_TRUE(client.becomes("qad_texts_waiting", kMany - 100 + 2));
  busy.close();
  EXPECT_THAT(fits.read_until("\r\n"), HasSubstr("200 OK"));
}

TEST(Server, AClientThatGoesFreesItsPlace) {
  const Server server(endless_model(), endless_options());
  Client client(server);
  for (const bool stream : {true, false}) {
    RawClient gone(server.port());
    gone.post(kCompletions, endless_text(stream).dump());
    if (stream) gone.read_until("data: ");
    EXPECT_TRUE(client.becomes("qad_texts_running", 64));
    gone.close();
    EXPECT_TRUE(client.becomes("qad_texts_running", 0));
    EXPECT_EQ(client.metric("qad_texts_waiting"), 0);
    EXPECT_EQ(client.metric("qad_cache_used_ratio"), 0);
    EXPECT_TRUE(client.becomes("qad_cancelled_total{reason=\"disconnected\"}", stream ? 1 : 2));
  }
  EXPECT_LT(client.metric("qad_generated_tokens_total"), 2 * kMany * kLong);
  EXPECT_TRUE(
      client.becomes("qad_http_requests_total{path=\"/v1/completions\",status=\"499\"}", 2));
}

TEST(Server, AClientThatDoesNotReadFreesItsPlace) {
  for (const bool lags : {false, true}) {  // it times out; or too much waits for it
    ServeOptions o = endless_options();
    o.write_timeout = milliseconds(lags ? 60000 : 100);
    o.most_pending = lags ? 500 : 1000000;
    const Server server(endless_model(), o);
    Client client(server);
    RawClient slow(server.port(), 4096);
    slow.post(kCompletions, endless_text(true).dump());
    slow.read_until("data: ");  // and no more
    EXPECT_TRUE(client.becomes("qad_texts_running", 0));
    EXPECT_LT(client.metric("qad_generated_tokens_total"), kMany * kLong);
    slow.close();  // a write that hangs ends with it
    EXPECT_TRUE(
        client.becomes("qad_http_requests_total{path=\"/v1/completions\",status=\"499\"}", 1));
  }
}

TEST(Server, AFailureIsThisPassesAlone) {
  const Server server(model(), options());
  Client client(server);
  const at::Tensor norm = model().model.final_norm.value, sound = norm.clone();
  norm.fill_(NAN);
  const Response failed = client.post(kCompletions, greedy(kBegin, 5));
  const std::string streamed = [&] {
    Json body = greedy(kBegin, 5, {{"stream", true}});
    return client.post(kCompletions, body).json["error"]["type"].get<std::string>();
  }();
  norm.copy_(sound);
  EXPECT_EQ(failed.status, 500);
  EXPECT_THAT(failed.json["error"]["message"].get<std::string>(), HasSubstr("finite"));
  EXPECT_EQ(streamed, "server_error");
  EXPECT_EQ(client.post(kCompletions, greedy(kBegin, 5)).json["choices"][0]["text"],
            alone(kBegin, {.max_tokens = 5}));
  EXPECT_TRUE(client.becomes("qad_texts_running", 0));
}

TEST(Server, LimitsItsConnections) {
  ServeOptions o = options();
  o.most_clients = 2;
  o.read_timeout = milliseconds(60000);
  const Server server(model(), o);
  // One that idles after an answer gives its place up, two whose requests are being read do not.
  // (Texts that are being written would end at some time, sooner than a busy machine goes on.)
  RawClient idle(server.port());
  idle.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(idle.read_until("ok"), StartsWith("HTTP/1.1 200"));
  RawClient first(server.port()), second(server.port());
  for (const RawClient* busy : {&first, &second}) {
    busy->send(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 100\r\nExpect: 100-continue\r\n\r\n");
    EXPECT_THAT(busy->read_until("\r\n\r\n"), StartsWith("HTTP/1.1 100"));
  }
  RawClient third(server.port());
  third.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
  const std::string refused = third.read_all();
  EXPECT_THAT(refused, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(refused, HasSubstr("server_overloaded"));
}

TEST(Server, BearsWhatIsNoRequest) {
  ServeOptions o = options();
  o.read_timeout = milliseconds(300);
  const Server server(model(), o);
  RawClient garbage(server.port());
  garbage.send("what is this\r\n\r\n");
  EXPECT_THAT(garbage.read_all(), StartsWith("HTTP/1.1 400"));
  RawClient endless(server.port());  // a header without end
  endless.send("GET /health HTTP/1.1\r\nX: ");
  const std::string much(100 << 10, 'x');
  endless.send(much);
  EXPECT_THAT(endless.read_all(), ::testing::Not(HasSubstr("200 OK")));
  RawClient slow(server.port());
  slow.send("GET /health HTTP/1.1\r\n");
  EXPECT_THAT(slow.read_all(), ::testing::Not(HasSubstr("200 OK")));
  RawClient half(server.port());
  half.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: 100\r\n\r\n{");
  EXPECT_THAT(half.read_all(), StartsWith("HTTP/1.1 400"));
  RawClient odd(server.port());
  odd.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: two\r\n\r\n{}");
  EXPECT_THAT(odd.read_all(), StartsWith("HTTP/1.1 400"));
  RawClient ranges(server.port());  // the library matches them with std::regex, which recurses
  std::string range = "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: bytes=0-0";
  for (int i = 0; i < 2000; ++i) range += ",0-0";
  ranges.send(range + "\r\n\r\n");
  EXPECT_THAT(ranges.read_all(), StartsWith("HTTP/1.1"));
  RawClient both(server.port());
  both.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n");
  EXPECT_THAT(both.read_all(), StartsWith("HTTP/1.1 400"));
  Client client(server);
  EXPECT_EQ(client.post(kCompletions, greedy("a", 1)).status, 200);
}

TEST(Server, LetsTextsEndWhenItStops) {
  Server server(model(), options());
  RawClient client(server.port());
  client.post(kCompletions, greedy(kBegin, 300, {{"stream", true}}).dump());
  client.read_until("data: ");
  server.stop(milliseconds(60000));
  EXPECT_THAT(client.read_all(), HasSubstr("\"finish_reason\":\"length\""));
  EXPECT_FALSE(server.listening());
  EXPECT_FALSE(RawClient(server.port()).connected());
}

TEST(Server, EndsTextsThatTakeTooLong) {
  Server server(endless_model(), endless_options());
  RawClient client(server.port());
  client.post(kCompletions, endless_text(true).dump());
  client.read_until("data: ");
  server.stop(milliseconds(0));
  EXPECT_THAT(client.read_all(), HasSubstr("shutting_down"));
}

}  // namespace
}  // namespace qad::serve
