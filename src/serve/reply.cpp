// One object for one answer: it knows what has been said of each choice.
#include "serve/reply.h"

#include <fmt/format.h>

#include <chrono>
#include <map>
#include <random>
#include <set>
#include <utility>

#include "core/version.h"
#include "generate/write_texts.h"
#include "text/tokenizer_utf8.h"

namespace qad::serve {
namespace {

std::string random_id(std::string_view prefix) {
  static thread_local std::mt19937_64 random(std::random_device{}());
  return fmt::format("{}-{:016x}{:016x}", prefix, random(), random());
}

Json bytes_json(const std::string& bytes) {
  Json list = Json::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return list;
}

}  // namespace

std::string to_line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string sse(const Json& json) {
  return "data: " + to_line(json) + "\n\n";
}

Reply::Reply(const text::Tokenizer& tokenizer, const Call& call, std::size_t choices,
             std::int64_t prompt_tokens)
    : tokenizer_(tokenizer),
      endpoint_(call.endpoint),
      log_(call.logprobs.has_value()),
      include_usage_(call.include_usage),
      samples_(call.samples),
      created_(std::chrono::duration_cast<std::chrono::seconds>(
                   std::chrono::system_clock::now().time_since_epoch())
                   .count()),
      model_(call.model),
      id_(random_id(endpoint_ == Endpoint::chat ? "chatcmpl" : "cmpl")),
      choices_(choices) {
  usage_.prompt_tokens = prompt_tokens;
}

std::string Reply::token_text(text::TokenId id) const {
  return text::lossy_utf8(tokenizer_.bytes_of(id));
}

void Reply::count(const Piece& piece) {
  usage_.new_tokens += piece.tokens;
  // The samples of a prompt share it.
  if (piece.choice % static_cast<std::size_t>(samples_) == 0) usage_.cached_tokens += piece.reused;
  if (piece.finish) choices_[piece.choice].finish = generate::finish_reason(*piece.finish);
}

Json Reply::frame(const char* chat, const char* completions) const {
  return {{"id", id_},
          {"object", endpoint_ == Endpoint::chat ? chat : completions},
          {"created", created_},
          {"model", model_},
          {"system_fingerprint", fmt::format("qad-{}", kVersion)}};
}

Json Reply::logprobs(const std::vector<LoggedToken>& tokens) const {
  if (!log_) return nullptr;
  if (endpoint_ == Endpoint::chat) {
    const auto one = [&](const generate::TokenLogProb& t) -> Json {
      return {{"token", token_text(t.id)},
              {"logprob", t.log_prob},
              {"bytes", bytes_json(tokenizer_.bytes_of(t.id))}};
    };
    Json content = Json::array();
    for (const LoggedToken& token : tokens) {
      Json entry = one(token.log_probs->chosen);
      entry["top_logprobs"] = Json::array();
      for (const auto& likely : token.log_probs->likeliest)
        entry["top_logprobs"].push_back(one(likely));
      content.push_back(std::move(entry));
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
  }
  Json texts = Json::array(), log_probs = Json::array(), top = Json::array(),
       offsets = Json::array();
  for (const LoggedToken& token : tokens) {
    texts.push_back(token_text(token.id));
    offsets.push_back(token.offset);
    if (!token.log_probs) {
      log_probs.push_back(nullptr);
      top.push_back(nullptr);
      continue;
    }
    log_probs.push_back(token.log_probs->chosen.log_prob);
    // By text, so of two tokens with one text the likelier; the chosen one is among them.
    Json likely = Json::object();
    for (const auto& t : token.log_probs->likeliest)
      if (const std::string key = token_text(t.id); !likely.contains(key)) likely[key] = t.log_prob;
    if (!likely.contains(texts.back().get_ref<const std::string&>()))
      likely[texts.back().get<std::string>()] = log_probs.back();
    top.push_back(std::move(likely));
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(log_probs)},
          {"top_logprobs", std::move(top)},
          {"text_offset", std::move(offsets)}};
}

Json Reply::chunk(std::size_t index, Json part) const {
  Json json = frame("chat.completion.chunk", "text_completion");
  Json choice = {{"index", index}};
  choice.update(part);
  json["choices"] = Json::array({std::move(choice)});
  if (include_usage_) json["usage"] = nullptr;
  return json;
}

std::string Reply::events(const std::vector<Piece>& pieces) {
  const bool chat = endpoint_ == Endpoint::chat;
  std::string out;
  const auto say = [&](std::size_t index, const char* key, Json value, Json logged, Json finish) {
    out += sse(chunk(index, {{key, std::move(value)},
                             {"logprobs", std::move(logged)},
                             {"finish_reason", std::move(finish)}}));
  };
  // What came together of a choice goes out together.
  std::map<std::size_t, Choice> together;
  for (const Piece& p : pieces) {
    count(p);
    Choice& c = together[p.choice];
    c.text += p.text;
    c.logged.insert(c.logged.end(), p.logged.begin(), p.logged.end());
    c.finish = choices_[p.choice].finish;
  }
  for (const auto& [index, c] : together) {
    if (!std::exchange(choices_[index].begun, true) && chat)
      say(index, "delta", {{"role", "assistant"}, {"content", ""}}, nullptr, nullptr);
    if (!c.text.empty() || !c.logged.empty())
      say(index, chat ? "delta" : "text", chat ? Json{{"content", c.text}} : Json(c.text),
          logprobs(c.logged), nullptr);
    if (c.finish != nullptr)
      say(index, chat ? "delta" : "text", chat ? Json::object() : Json(""), nullptr, c.finish);
  }
  return out;
}

void Reply::add(const std::vector<Piece>& pieces) {
  for (const Piece& p : pieces) {
    count(p);
    Choice& c = choices_[p.choice];
    c.text += p.text;
    c.logged.insert(c.logged.end(), p.logged.begin(), p.logged.end());
  }
}

namespace {

Json to_json(const Usage& u) {
  return {{"prompt_tokens", u.prompt_tokens},
          {"completion_tokens", u.new_tokens},
          {"total_tokens", u.prompt_tokens + u.new_tokens},
          {"prompt_tokens_details", {{"cached_tokens", u.cached_tokens}}}};
}

}  // namespace

std::string Reply::last_events() const {
  std::string out;
  if (include_usage_) {
    Json json = frame("chat.completion.chunk", "text_completion");
    json["choices"] = Json::array();
    json["usage"] = to_json(usage_);
    out = sse(json);
  }
  return out + "data: [DONE]\n\n";
}

std::string Reply::whole() const {
  const bool chat = endpoint_ == Endpoint::chat;
  Json json = frame("chat.completion", "text_completion");
  json["choices"] = Json::array();
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const Choice& c = choices_[i];
    Json choice = {{"index", i}};
    if (chat)
      choice["message"] = {{"role", "assistant"}, {"content", c.text}, {"refusal", nullptr}};
    else
      choice["text"] = c.text;
    choice["logprobs"] = logprobs(c.logged);
    choice["finish_reason"] = c.finish;
    json["choices"].push_back(std::move(choice));
  }
  json["usage"] = to_json(usage_);
  return to_line(json) + "\n";
}

std::string Reply::summary() const {
  std::set<std::string> reasons;
  for (const Choice& c : choices_) reasons.insert(c.finish != nullptr ? c.finish : "unfinished");
  return fmt::format(", {} + {} tokens ({} cached), {}", usage_.prompt_tokens, usage_.new_tokens,
                     usage_.cached_tokens, fmt::join(reasons, "+"));
}

}  // namespace qad::serve
