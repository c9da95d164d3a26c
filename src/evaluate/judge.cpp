// A few requests over HTTP.
#include "evaluate/judge.h"

#include <httplib.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "core/error.h"
#include "core/json.h"

namespace qad::evaluate {
namespace {

constexpr std::string_view kOperation = "judge";
constexpr int kTries = 6;  // with 1, 2, 4, 8 and 16 seconds between them

struct Endpoint {
  std::string host, path;  // "http://host:port", "/v1"
};

Endpoint endpoint_of(const std::string& url) {
  const std::size_t scheme = url.find("://");
  check(scheme != std::string::npos && (url.starts_with("http://") || url.starts_with("https://")),
        kOperation, "judge_url: expected http://HOST:PORT/v1, found \"{}\"", url);
  const std::size_t slash = url.find('/', scheme + 3);
  std::string path = slash == std::string::npos ? "" : url.substr(slash);
  while (path.ends_with('/')) path.pop_back();
  return {url.substr(0, slash), path};
}

Json request(const Judge& judge, const std::string& path, const Json* body) {
  const Endpoint endpoint = endpoint_of(judge.url);
  std::string said;
  for (int tries = 0; tries < kTries; ++tries) {
    if (tries > 0) std::this_thread::sleep_for(std::chrono::seconds(1 << (tries - 1)));
    httplib::Client client(endpoint.host);
    client.set_read_timeout(std::chrono::minutes(10));
    if (const char* key = std::getenv("QAD_JUDGE_KEY")) client.set_bearer_token_auth(key);
    const auto result = body ? client.Post(endpoint.path + path, body->dump(), "application/json")
                             : client.Get(endpoint.path + path);
    if (!result) {
      said = httplib::to_string(result.error());
    } else if (result->status == 200) {
      return parse_json(result->body, judge.url + path);
    } else {
      said = fmt::format("status {}: {}", result->status, result->body.substr(0, 500));
      if (result->status != 429 && result->status != 503) break;
    }
    if (body == nullptr) break;  // a first look does not wait
  }
  fail(kOperation, "{}{}: {}", judge.url, path, said);
}

}  // namespace

void check_judge(const Judge& judge) {
  request(judge, "/models", nullptr);
}

std::string ask(const Judge& judge, const std::string& message) {
  Json body = {{"messages", {{{"role", "user"}, {"content", message}}}}, {"temperature", 0}};
  body["model"] = judge.model;
  if (judge.model.empty())
    body["model"] = request(judge, "/models", nullptr).at("data").at(0).at("id");
  const Json answer = request(judge, "/chat/completions", &body);
  try {
    return answer.at("choices").at(0).at("message").at("content").get<std::string>();
  } catch (const Json::exception&) {
    fail(kOperation, "{}: expected choices[0].message.content, found {}", judge.url,
         answer.dump().substr(0, 500));
  }
}

}  // namespace qad::evaluate
