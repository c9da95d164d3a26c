// An OpenAI-compatible HTTP server for one model: /v1/models, /v1/chat/completions,
// /v1/completions, /health and /metrics. Concurrent requests share the passes through the model
// (decoder.h). Threads: one that decodes, one that accepts, one a client.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "recipe/steps.h"

namespace qad::serve {

struct ServeOptions {
  std::string host = "127.0.0.1";
  std::int64_t port = 8000;  // 0: any that is free
  std::string name;          // of the model, in requests; empty: its file's or folder's
  std::string api_key;       // empty: whoever reaches the server may use it
  bool quiet = false;        // no line for each request

  std::int64_t most_clients = 256;   // connections, each with its thread; more get 503
  std::int64_t most_waiting = 256;   // texts beside those being written; more get 429
  std::int64_t most_body = 4 << 20;  // bytes; more get 413
  std::int64_t most_prompt = 0;      // tokens; 0: what the context has room for
  std::int64_t most_tokens = 4096;   // new ones of a text
  std::int64_t batch_size = 64;      // texts written at once
  double cache_bytes = 1e9;          // for keys and values

  std::chrono::milliseconds write_timeout{30000};  // a client that takes longer to read is left
  std::chrono::milliseconds read_timeout{30000};   // or to send a request
  std::int64_t most_pending = 4096;                // or lags behind by so many tokens
};

class Server {
 public:
  // Listens once it is made. `loaded` must outlive it. Throws Error for an address that cannot be
  // had, and for one that others can reach where there is no key and `open` does not allow it.
  Server(const recipe::LoadedModel& loaded, const ServeOptions& options, bool open = false);
  ~Server();  // stop(0)
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  std::string url() const;  // "http://127.0.0.1:8000/v1"
  int port() const;
  const std::string& name() const;
  bool listening() const;  // false after stop() and if the system took the socket away
  // Takes nothing new, lets what runs end within `grace`, then ends it.
  void stop(std::chrono::milliseconds grace);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qad::serve
