// qad serve: a model behind OpenAI's API.
#include "serve/server.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "recipe/steps.h"

namespace qad::cli {
namespace {

struct Options {
  std::string model;
  serve::ServeOptions serve;
  std::optional<std::string> key, key_file;
  bool without_key = false;
  double cache_gb = 1, write_timeout = 30, grace = 10;
  ComputeOptions compute;
};

// --api-key, --api-key-file or the environment's QAD_API_KEY.
std::string api_key(const Options& o) {
  const char* environment = std::getenv("QAD_API_KEY");
  std::string key, from;
  if (o.key) {
    key = *o.key;
    from = "--api-key";
  } else if (o.key_file) {
    key = read_text(*o.key_file);
    key.erase(key.find_last_not_of(" \t\r\n") + 1);
    from = *o.key_file;
  } else if (environment != nullptr) {
    key = environment;
    from = "QAD_API_KEY";
  } else {
    return {};
  }
  const bool visible =
      !key.empty() && std::all_of(key.begin(), key.end(), [](char c) { return c > 32 && c < 127; });
  check(visible, "serve", "{}: expected a key of visible ASCII characters", from);
  return key;
}

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(std::min(seconds, 1e6) * 1000));
}

}  // namespace

void add_serve(CLI::App& app) {
  Command command(app, "serve", "answer OpenAI's API: chats and completions for many at once");
  auto o = std::make_shared<Options>();
  constexpr std::int64_t kOne = 1;
  command.required("model", o->model, "checkpoint, BF16 or NVFP4");
  command.text("--host", o->serve.host, "address to listen at");
  command.number("--port", o->serve.port, "0: any that is free", std::int64_t{0},
                 std::int64_t{65535});
  command.text("--name", o->serve.name, "the model's in requests; else its file's or folder's");
  command.flag("--quiet", o->serve.quiet, "no line for each request on stderr");
  command.group("Access");
  command.optional("--api-key", o->key,
                   "what a client must give; others can see it in the list of processes");
  command.optional("--api-key-file", o->key_file, "its file; else the environment's QAD_API_KEY");
  command.flag("--without-key", o->without_key,
               "let everyone in who reaches a --host that is not this machine alone");
  command.exclude("--api-key", "--api-key-file");
  command.group("Limits");
  command.number("--max-clients", o->serve.most_clients, "connections at once; more get 503", kOne,
                 std::int64_t{900});  // 1024 files are what a process may have open
  command.number("--max-queue", o->serve.most_waiting, "texts that wait; more get 429");
  command.number("--max-body", o->serve.most_body, "bytes of a request; more get 413", kOne);
  command.number("--max-prompt", o->serve.most_prompt, "tokens; 0: what the context has room for");
  command.number("--max-tokens", o->serve.most_tokens, "new tokens of a text", kOne);
  command.number("--write-timeout", o->write_timeout,
                 "seconds after which a client that does not read loses its place");
  command.number("--grace", o->grace, "seconds that texts have to end after Ctrl-C or SIGTERM");
  command.group("Compute");
  command.number("--batch-size", o->serve.batch_size, "texts written at once", kOne);
  command.number("--cache-gb", o->cache_gb, "memory for keys and values");
  add_compute_options(command, o->compute);
  command.run([o] {
    o->serve.api_key = api_key(*o);
    o->serve.cache_bytes = o->cache_gb * 1e9;
    o->serve.write_timeout = milliseconds(o->write_timeout);
    apply(o->compute);
    const recipe::LoadedModel loaded =
        recipe::load_model(o->model, models::decoding_placement_of(o->compute.device));
    const Interrupt interrupt;
    serve::Server server(loaded, o->serve, o->without_key);
    fmt::print("{} on {}\n", server.name(), server.url());
    std::fflush(stdout);
    while (!interrupt.asked() && server.listening())
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    check(interrupt.asked(), "serve",
          "the system took the socket away; what was running has ended");
    note("serve: ending; a second signal ends at once");
    server.stop(milliseconds(o->grace));
    return 0;
  });
}

}  // namespace qad::cli
