// Sockets by poll(), which knows of no largest number and tells when the other side hangs up.
#include "serve/http.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/console.h"
#include "core/error.h"

namespace qad::serve {
namespace {

using std::chrono::milliseconds;

constexpr std::int64_t kHeaderBytes = 64 << 10;
constexpr std::size_t kReadBytes = 16 << 10;
// For what a client still sends; for a place to become free; between looks at what has changed.
constexpr milliseconds kLinger{1000}, kPatience{1000}, kSlice{100};
constexpr std::size_t kRefusers = 8;  // threads beside the clients': each says that it is full
constexpr int kBacklog = 1024;
constexpr int kSendBuffer = 64 << 10;  // a client that does not read is noticed soon

thread_local Connection* current = nullptr;

// What of `events` has come, 0 after `patience`.
short wait_for(socket_t socket, short events, milliseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  for (;;) {
    pollfd p{socket, events, 0};
    const auto left = std::chrono::ceil<milliseconds>(until - std::chrono::steady_clock::now());
    const int n = poll(&p, 1, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
    if (n > 0) return p.revents;
    if (n == 0 || errno != EINTR) return 0;
  }
}

void address_of(socket_t socket, int (*which)(int, sockaddr*, socklen_t*), std::string& ip,
                int& port) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  char host[NI_MAXHOST], service[NI_MAXSERV];
  auto* const plain = reinterpret_cast<sockaddr*>(&address);
  if (which(socket, plain, &size) != 0 ||
      getnameinfo(plain, size, host, sizeof(host), service, sizeof(service),
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return;
  ip = host;
  port = std::atoi(service);
}

}  // namespace

Connection::Connection(socket_t socket, const HttpLimits& limits)
    : socket_(socket), limits_(limits) {
  const int yes = 1;
  setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
  setsockopt(socket_, SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof(kSendBuffer));
}

void Connection::begin_request() {
  read_until_ = Clock::now() + limits_.read;
  bytes_left_ = kHeaderBytes;
  body_read = false;
  record = {Clock::now(), 0, {}};
}

bool Connection::wait(milliseconds patience) const {
  return used_ < buffer_.size() || wait_for(socket_, POLLIN, patience) != 0;
}

bool Connection::gone() const {
  return (wait_for(socket_, POLLRDHUP, milliseconds(0)) &
          (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

void Connection::linger() {
  ::shutdown(socket_, SHUT_WR);
  const auto until = Clock::now() + kLinger;
  char sink[4096];
  while (Clock::now() < until) {
    if (wait_for(socket_, POLLIN, kSlice) == 0) continue;
    if (recv(socket_, sink, sizeof(sink), MSG_DONTWAIT) <= 0) return;
  }
}

bool Connection::is_readable() const {
  return wait(milliseconds(0));
}

bool Connection::is_writable() const {
  return !gone();
}

ssize_t Connection::read(char* to, std::size_t size) {
  if (used_ == buffer_.size()) {
    const auto left = std::chrono::ceil<milliseconds>(read_until_ - Clock::now());
    if (bytes_left_ <= 0 || left.count() <= 0 || wait_for(socket_, POLLIN, left) == 0) return -1;
    buffer_.resize(std::min(kReadBytes, static_cast<std::size_t>(bytes_left_)));
    const ssize_t n = recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    buffer_.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    used_ = 0;
    bytes_left_ -= n;
    if (n <= 0) return n;
  }
  const std::size_t n = std::min(size, buffer_.size() - used_);
  std::memcpy(to, buffer_.data() + used_, n);
  used_ += n;
  return static_cast<ssize_t>(n);
}

// All of it or -1: a client that takes a byte now and then is slow, too.
ssize_t Connection::write(const char* from, std::size_t size) {
  const auto until = Clock::now() + limits_.write;
  std::size_t sent = 0;
  while (sent < size) {
    const ssize_t n = send(socket_, from + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      sent += static_cast<std::size_t>(n);
      continue;
    }
    if (errno == EINTR) continue;
    const auto left = std::chrono::ceil<milliseconds>(until - Clock::now());
    if (errno != EAGAIN || left.count() <= 0) return -1;
    if ((wait_for(socket_, POLLOUT, left) & POLLOUT) == 0) return -1;
  }
  return static_cast<ssize_t>(size);
}

void Connection::get_remote_ip_and_port(std::string& ip, int& port) const {
  address_of(socket_, getpeername, ip, port);
}

void Connection::get_local_ip_and_port(std::string& ip, int& port) const {
  address_of(socket_, getsockname, ip, port);
}

HttpServer::HttpServer(const HttpLimits& limits) : limits_(limits) {
  const auto threads = static_cast<std::size_t>(limits.clients) + kRefusers;
  new_task_queue = [threads] { return new httplib::ThreadPool(threads); };
  // The library's own SO_REUSEPORT would let two servers share a port by accident.
  set_socket_options([](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
}

int HttpServer::bind(const std::string& host, int port) {
  errno = 0;
  const int bound = port == 0 ? bind_to_any_port(host) : bind_to_port(host, port) ? port : -1;
  const int why = errno;
  check(bound > 0, "serve", "{}:{}: {}; choose another --host or --port", host, port,
        why == 0 ? "no such address" : std::strerror(why));
  ::listen(svr_sock_, kBacklog);  // again, with a longer queue than the library's 5
  return bound;
}

void HttpServer::stop_accepting() {
  stopping_ = true;
  // Not stop(): answers that are being written would end with it.
  ::shutdown(svr_sock_, SHUT_RDWR);
}

void HttpServer::hang_up() {
  const std::lock_guard lock(mutex_);
  for (const socket_t socket : sockets_) ::shutdown(socket, SHUT_RDWR);
}

Connection& HttpServer::connection() {
  return *current;
}

// A place, if one is free or becomes so within kPatience: connections that idle give theirs up.
bool HttpServer::admit() {
  std::unique_lock lock(mutex_);
  const auto free = [&] { return clients_ < limits_.clients || stopping_; };
  ++waiting_;
  const bool admitted = left_.wait_for(lock, kPatience, free);
  --waiting_;
  if (admitted) ++clients_;
  return admitted;
}

bool HttpServer::process_and_close_socket(socket_t socket) {
  Connection connection(socket, limits_);
  {
    const std::lock_guard lock(mutex_);
    sockets_.insert(socket);
  }
  if (admit()) {
    current = &connection;
    try {
      serve(connection);
    } catch (const std::exception& e) {  // out of memory; this client's request ends with it
      note("serve: {}", e.what());
    }
    current = nullptr;
    const std::lock_guard lock(mutex_);
    --clients_;
    left_.notify_one();
  } else {
    constexpr std::string_view kBody =
        R"({"error":{"message":"too many connections; try again later","type":"server_error",)"
        R"("param":null,"code":"server_overloaded"}})";
    const std::string answer = fmt::format(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        "Retry-After: 1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}",
        kBody.size(), kBody);
    connection.write(answer.data(), answer.size());
    connection.linger();
  }
  const std::lock_guard lock(mutex_);
  sockets_.erase(socket);
  ::shutdown(socket, SHUT_RDWR);
  ::close(socket);
  return true;
}

void HttpServer::serve(Connection& connection) {
  using Clock = std::chrono::steady_clock;
  bool idle = false;  // it was served, and may want nothing more
  for (auto since = Clock::now(); !stopping_;) {
    if (!connection.wait(kSlice)) {
      if ((idle && waiting_ > 0) || Clock::now() - since > limits_.idle) return;
      continue;
    }
    connection.begin_request();
    bool closed = false;
    const bool ok =
        process_request(connection, false, closed, [](httplib::Request& r) { r.ranges.clear(); });
    if (!ok || closed) return;
    if (!connection.keep) return connection.linger();
    idle = true;
    since = Clock::now();
  }
}

}  // namespace qad::serve
