// From an HTTP request to its answer. A handler runs on its client's thread, so it may wait.
#include "serve/server.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <ctime>
#include <optional>
#include <thread>
#include <utility>

#include "core/console.h"
#include "core/error.h"
#include "serve/access.h"
#include "serve/decoder.h"
#include "serve/http.h"
#include "serve/reply.h"

namespace qad::serve {
namespace {

using httplib::Request;
using httplib::Response;
using std::chrono::milliseconds;

constexpr milliseconds kLook{200};  // how often a client that waits is looked after

// The client has gone, or does not read.
struct Left {
  Cancelled why;
};

std::string name_of(const recipe::LoadedModel& loaded, const ServeOptions& options) {
  if (!options.name.empty()) return options.name;
  const fs::path path = fs::absolute(loaded.source.path).lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

Decoder::Options decoder_options(const ServeOptions& o) {
  return {{.most_sequences = o.batch_size, .cache_bytes = o.cache_bytes},
          o.most_waiting,
          o.most_pending};
}

HttpLimits http_limits(const ServeOptions& o) {
  HttpLimits limits;
  limits.clients = o.most_clients;
  limits.read = o.read_timeout;
  limits.write = o.write_timeout;
  return limits;
}

void set_json(Response& res, int status, const std::string& json) {
  res.status = status;
  res.set_content(json, "application/json");
}

void set_error(Response& res, const ApiError& e) {
  if (e.retry_after_s > 0) res.set_header("Retry-After", std::to_string(e.retry_after_s));
  if (e.status == 401) res.set_header("WWW-Authenticate", "Bearer");
  set_json(res, e.status, to_line(to_json(e)) + "\n");
}

// Control characters would let a client write lines of its own into the log, and much at once.
std::string printable(std::string text) {
  constexpr std::size_t kMost = 300;
  if (text.size() > kMost) text = text.substr(0, kMost) + " ...";
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  return text;
}

std::uint64_t content_length(const Request& req) {
  const std::string text = req.get_header_value("Content-Length");
  std::uint64_t length = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
  if (error != std::errc() || end != text.data() + text.size())
    throw ApiError(400,
                   fmt::format("Content-Length: expected a number, found \"{}\"", printable(text)));
  return length;
}

// A call's texts, given up unless they are done.
struct Ticket {
  Ticket(Decoder& d, std::vector<Text> texts) : decoder(d), channel(d.submit(std::move(texts))) {}
  Ticket(const Ticket&) = delete;
  Ticket& operator=(const Ticket&) = delete;
  ~Ticket() {
    if (!done) decoder.cancel(channel);
  }
  Decoder& decoder;
  std::shared_ptr<Channel> channel;
  bool done = false;
  std::chrono::steady_clock::time_point looked = std::chrono::steady_clock::now();
};

// The next pieces; none when there are no more.
std::vector<Piece> next_pieces(Ticket& ticket, const Connection& client) {
  for (;;) {
    std::vector<Piece> pieces = ticket.channel->take(kLook);
    const auto now = std::chrono::steady_clock::now();
    const bool look = now - ticket.looked >= kLook;
    if (look) ticket.looked = now;
    if (look && client.gone()) throw Left{Cancelled::disconnected};
    if (!pieces.empty() || ticket.channel->over()) return pieces;
    if (ticket.channel->closed()) throw Left{Cancelled::slow};
  }
}

}  // namespace

struct Server::Impl {
  Impl(const recipe::LoadedModel& model, const ServeOptions& o)
      : loaded(model),
        options(o),
        name(name_of(model, o)),
        decoder(model.model, model.tokenizer, decoder_options(o), metrics),
        http(http_limits(o)) {
    if (!loaded.tokenizer.chat_template.empty()) chat.emplace(loaded.tokenizer.chat_template);
    const std::int64_t positions = loaded.model.config.max_positions;
    limits.context = positions > 0 ? std::min(positions, decoder.room()) : decoder.room();
    limits.prompt = options.most_prompt > 0 ? options.most_prompt : limits.context;
    limits.new_tokens = options.most_tokens;
    limits.texts = decoder.most_texts();
  }

  void set_routes();
  void gate(const Request& req, Response& res) const;  // throws ApiError for who may not pass
  std::string read_body(const Request& req, const httplib::ContentReader& reader) const;
  void answer(Endpoint endpoint, const Request& req, Response& res,
              const httplib::ContentReader& reader);
  void answer_whole(Ticket& ticket, Reply& reply, Response& res);
  bool send_events(Ticket& ticket, Reply& reply, std::vector<Piece> pieces,
                   httplib::DataSink& sink);
  void left(Cancelled why);
  Json model_json() const;
  void check_model(const std::string& asked) const;
  void finish_headers(const Request& req, Response& res) const;
  void log(const Request& req, const Response& res);

  const recipe::LoadedModel& loaded;
  ServeOptions options;
  std::string name;
  std::optional<text::ChatTemplate> chat;
  TextLimits limits;
  std::time_t created = std::time(nullptr);
  int port = 0;
  Metrics metrics;
  Decoder decoder;
  HttpServer http;
  std::thread listener;
  std::atomic<bool> listening = false;
};

void Server::Impl::check_model(const std::string& asked) const {
  if (asked == name) return;
  ApiError error(404, fmt::format("the model `{}` does not exist; this server has `{}`",
                                  printable(asked), name));
  error.param = "model";
  error.code = "model_not_found";
  throw error;
}

Json Server::Impl::model_json() const {
  return {{"id", name},
          {"object", "model"},
          {"created", created},
          {"owned_by", "qad"},
          {"max_model_len", limits.context}};  // as vLLM says it
}

// Before a request's body is read: who asks for what there is not, or may not ask, is told at once.
void Server::Impl::gate(const Request& req, Response& res) const {
  const char* method = method_of(req.path);
  if (method == nullptr)
    throw ApiError(404, fmt::format("{} {}: there is no such path", req.method, req.path));
  const std::string asked = req.method == "HEAD" ? "GET" : req.method;
  if (asked != method) {
    res.set_header("Allow", method);
    throw ApiError(405, fmt::format("{} {}: expected {}", req.method, req.path, method));
  }
  if (req.path == "/health" || may_pass(req.get_header_value("Authorization"), options.api_key))
    return;
  ApiError error(401, "this server wants its API key: Authorization: Bearer KEY");
  error.code = "invalid_api_key";
  throw error;
}

std::string Server::Impl::read_body(const Request& req,
                                    const httplib::ContentReader& reader) const {
  // A page in a browser can send other types to any address, but not this one.
  const std::string type = req.get_header_value("Content-Type");
  if (!type.starts_with("application/json"))
    throw ApiError(
        415, fmt::format("Content-Type: expected application/json, found \"{}\"", printable(type)));
  const bool chunked = req.has_header("Transfer-Encoding");
  if (chunked == req.has_header("Content-Length"))
    throw ApiError(chunked ? 400 : 411, "expected a Content-Length or a Transfer-Encoding");
  const ApiError too_large(
      413, fmt::format("the request's body: expected no more than {} bytes", options.most_body));
  const auto most = static_cast<std::uint64_t>(options.most_body);
  if (!chunked && content_length(req) > most) throw too_large;
  Connection& client = HttpServer::connection();
  // The frames of chunks are bytes, too, but not as many as what they hold: else they are an
  // attack.
  client.allow(options.most_body * (chunked ? 2 : 1));
  std::string body;
  bool fits = true;
  const bool whole = reader([&](const char* data, std::size_t size) {
    fits = body.size() + size <= most;
    if (fits) body.append(data, size);
    return fits;
  });
  if (!fits) throw too_large;
  if (!whole)
    throw ApiError(400, "the request's body ended early, came too slowly or is malformed");
  client.body_read = true;
  return body;
}

void Server::Impl::left(Cancelled why) {
  metrics.cancelled(why);
  Connection::Record& record = HttpServer::connection().record;
  record.status = 499;
  record.note += why == Cancelled::slow ? "; the client does not read" : "; the client has gone";
  HttpServer::connection().keep = false;
}

void Server::Impl::answer(Endpoint endpoint, const Request& req, Response& res,
                          const httplib::ContentReader& reader) {
  const Call call = parse_call(endpoint, read_body(req, reader));
  check_model(call.model);
  std::vector<Text> texts = texts_of(call, loaded, chat, limits);
  std::size_t prompt_tokens = 0;
  for (std::size_t i = 0; i < texts.size(); i += static_cast<std::size_t>(call.samples))
    prompt_tokens += texts[i].prompt.size();
  const auto reply = std::make_shared<Reply>(loaded.tokenizer, call, texts.size(),
                                             static_cast<std::int64_t>(prompt_tokens));
  Connection& client = HttpServer::connection();
  client.record.note = fmt::format("; {}{}", reply->id(), call.stream ? ", stream" : "");
  res.set_header("X-Request-Id", reply->id());
  const auto ticket = std::make_shared<Ticket>(decoder, std::move(texts));
  try {
    if (!call.stream) return answer_whole(*ticket, *reply, res);
    // An error that comes before the first piece still has its status.
    std::vector<Piece> first = next_pieces(*ticket, client);
    res.set_header("Cache-Control", "no-cache");
    const auto provide = [this, ticket, reply, first = std::move(first)](
                             std::size_t, httplib::DataSink& sink) mutable {
      return send_events(*ticket, *reply, std::move(first), sink);
    };
    if (req.version == "HTTP/1.0") {  // knows no chunks: the end is the connection's
      client.keep = false;
      res.set_content_provider("text/event-stream", provide);
    } else {
      res.set_chunked_content_provider("text/event-stream", provide);
    }
  } catch (const Left& l) {
    left(l.why);
    res.status = 499;
  }
}

void Server::Impl::answer_whole(Ticket& ticket, Reply& reply, Response& res) {
  const Connection& client = HttpServer::connection();
  while (!ticket.channel->over()) reply.add(next_pieces(ticket, client));
  ticket.done = true;
  HttpServer::connection().record.note += reply.summary();
  set_json(res, 200, reply.whole());
}

bool Server::Impl::send_events(Ticket& ticket, Reply& reply, std::vector<Piece> pieces,
                               httplib::DataSink& sink) {
  Connection& client = HttpServer::connection();
  const auto write = [&](const std::string& events) {
    if (!events.empty() && !sink.write(events.data(), events.size()))
      throw Left{client.gone() ? Cancelled::disconnected : Cancelled::slow};
  };
  try {
    for (;; pieces = next_pieces(ticket, client)) {
      write(reply.events(pieces));
      if (ticket.channel->over()) break;
    }
    ticket.done = true;
    write(reply.last_events());
    client.record.note += reply.summary();
    sink.done();
    return true;
  } catch (const Left& l) {
    client.record.note += reply.summary();
    left(l.why);
    return false;
  } catch (const ApiError& e) {  // too late for a status
    client.record.status = e.status;
    client.record.note += reply.summary() + "; " + e.what();
    const std::string event = sse(to_json(e));
    if (sink.write(event.data(), event.size())) sink.done();
    return true;
  }
}

// A connection is kept where it is certain that the request was read to its end.
void Server::Impl::finish_headers(const Request& req, Response& res) const {
  Connection& client = HttpServer::connection();
  const bool no_body = (req.method == "GET" || req.method == "HEAD") && res.status != 400 &&
                       res.status != 414 && res.status != 416 &&
                       !req.has_header("Content-Length") && !req.has_header("Transfer-Encoding");
  if (http.stopping() || !(client.body_read || no_body)) client.keep = false;
  res.headers.erase("Keep-Alive");
  if (!client.keep && !res.has_header("Connection")) res.set_header("Connection", "close");
}

void Server::Impl::log(const Request& req, const Response& res) {
  const Connection::Record& record = HttpServer::connection().record;
  const int status = record.status != 0 ? record.status : res.status;
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - record.begin;
  const bool known = method_of(req.path) != nullptr;
  const bool one_model = req.path.starts_with("/v1/models/");
  metrics.answered(!known      ? "other"
                   : one_model ? "/v1/models/{model}"
                               : req.path,
                   status, took.count());
  if (options.quiet) return;
  note("{:%FT%TZ} {} {} {} {} {:.3f} s{}", fmt::gmtime(std::time(nullptr)), req.remote_addr,
       printable(req.method), printable(req.path), status, took.count(), record.note);
}

void Server::Impl::set_routes() {
  const auto guarded = [](Response& res, auto&& act) {
    try {
      act();
    } catch (const ApiError& e) {
      HttpServer::connection().record.note += fmt::format("; {}", printable(e.what()));
      set_error(res, e);
    }
  };
  http.set_pre_routing_handler([this, guarded](const Request& req, Response& res) {
    guarded(res, [&] { gate(req, res); });
    return res.status == -1 ? HttpServer::HandlerResponse::Unhandled
                            : HttpServer::HandlerResponse::Handled;
  });
  const auto post = [&](const char* path, Endpoint endpoint) {
    http.Post(path, [this, guarded, endpoint](const Request& req, Response& res,
                                              const httplib::ContentReader& reader) {
      guarded(res, [&] { answer(endpoint, req, res, reader); });
    });
  };
  post("/v1/chat/completions", Endpoint::chat);
  post("/v1/completions", Endpoint::completions);
  http.Get("/v1/models", [this](const Request&, Response& res) {
    const Json list = {{"object", "list"}, {"data", Json::array({model_json()})}};
    set_json(res, 200, to_line(list) + "\n");
  });
  http.Get("/v1/models/(.+)", [this, guarded](const Request& req, Response& res) {
    guarded(res, [&] {
      check_model(req.matches[1]);
      set_json(res, 200, to_line(model_json()) + "\n");
    });
  });
  http.Get("/health", [](const Request&, Response& res) {
    set_json(res, 200, to_line({{"status", "ok"}}) + "\n");
  });
  http.Get("/metrics", [this](const Request&, Response& res) {
    res.set_content(metrics.text(http.clients()), "text/plain; version=0.0.4; charset=utf-8");
  });
  // What the library itself refuses.
  http.set_error_handler([](const Request&, Response& res) {
    if (!res.body.empty() || res.content_provider_) return;
    set_error(res, ApiError(res.status, fmt::format("HTTP {}: the request is malformed or too long",
                                                    res.status)));
  });
  http.set_exception_handler([](const Request&, Response& res, std::exception_ptr what) {
    try {
      std::rethrow_exception(what);
    } catch (const std::exception& e) {
      HttpServer::connection().record.note += fmt::format("; {}", printable(e.what()));
      set_error(res, ApiError(500, e.what()));
    }
  });
  http.set_post_routing_handler(
      [this](const Request& req, Response& res) { finish_headers(req, res); });
  http.set_logger([this](const Request& req, const Response& res) { log(req, res); });
}

Server::Server(const recipe::LoadedModel& loaded, const ServeOptions& options, bool open) {
  check(open || !options.api_key.empty() || is_loopback(options.host), "serve",
        "--host {}: others can reach it, and there is no key; give --api-key-file or QAD_API_KEY, "
        "or allow everyone with --without-key",
        options.host);
  impl_ = std::make_unique<Impl>(loaded, options);
  impl_->set_routes();
  impl_->port = impl_->http.bind(options.host, static_cast<int>(options.port));
  impl_->listening = true;
  impl_->listener = std::thread([impl = impl_.get()] {
    impl->http.listen();
    impl->listening = false;
  });
}

Server::~Server() {
  stop(milliseconds(0));
}

std::string Server::url() const {
  const std::string& host = impl_->options.host;
  const bool v6 = host.find(':') != host.npos;
  return fmt::format("http://{}:{}/v1", v6 ? "[" + host + "]" : host, impl_->port);
}

int Server::port() const {
  return impl_->port;
}

const std::string& Server::name() const {
  return impl_->name;
}

bool Server::listening() const {
  return impl_->listening;
}

void Server::stop(milliseconds grace) {
  if (!impl_->listener.joinable()) return;
  impl_->http.stop_accepting();
  const auto ended_within = [&](milliseconds time) {
    const auto until = std::chrono::steady_clock::now() + time;
    while (impl_->listening && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(milliseconds(10));
    return !impl_->listening;
  };
  if (!ended_within(grace)) {
    impl_->decoder.abort();
    if (!ended_within(milliseconds(1000))) impl_->http.hang_up();
  }
  impl_->listener.join();
}

}  // namespace qad::serve
