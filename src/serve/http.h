// cpp-httplib with connections of our own: it parses requests and writes answers, we say how long a
// client may take, how many bytes it may send, and whether it is still there. (Its own connections,
// as of 0.11 and 0.14, wait for a header line without end and cannot tell that a client has gone.)
#pragma once

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <set>
#include <string>

namespace qad::serve {

struct HttpLimits {
  std::int64_t clients = 256;              // connections served at once, each with its thread
  std::chrono::milliseconds idle{5000};    // between two requests of a connection
  std::chrono::milliseconds read{30000};   // a request, from its first byte to its last
  std::chrono::milliseconds write{30000};  // what is written at once
};

// A client's socket while it is served. Its requests come one after the other.
class Connection : public httplib::Stream {
 public:
  Connection(socket_t socket, const HttpLimits& limits);

  // A new request: it may take limits.read and have kHeaderBytes; allow() adds to those.
  void begin_request();
  void allow(std::int64_t bytes) { bytes_left_ += bytes; }
  // Waits until a byte is there, at most `patience`; false: none came.
  bool wait(std::chrono::milliseconds patience) const;
  // The client has closed it, or will send nothing more.
  bool gone() const;
  // Says that nothing more will come and reads what the client still sends, for a moment: closing
  // at once would take the answer from it.
  void linger();

  bool body_read = false;  // of the request, whole
  bool keep = true;        // for another request
  struct Record {          // of the request, for the log
    std::chrono::steady_clock::time_point begin;
    int status = 0;  // where it is not the response's
    std::string note;
  } record;

  bool is_readable() const override;
  bool is_writable() const override;
  ssize_t read(char* to, std::size_t size) override;
  ssize_t write(const char* from, std::size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return socket_; }

 private:
  using Clock = std::chrono::steady_clock;
  socket_t socket_;
  const HttpLimits& limits_;
  Clock::time_point read_until_;
  std::int64_t bytes_left_ = 0;
  std::string buffer_;
  std::size_t used_ = 0;  // of buffer_
};

class HttpServer : public httplib::Server {
 public:
  explicit HttpServer(const HttpLimits& limits);

  // Throws Error if it cannot listen there. Port 0: any; returns the port.
  int bind(const std::string& host, int port);
  // Serves until stop_accepting() (or until the system takes the socket away), then until the last
  // connection is closed.
  void listen() { listen_after_bind(); }
  // No new connections; those that are there end with their request.
  void stop_accepting();
  bool stopping() const { return stopping_; }
  // Shuts all connections.
  void hang_up();

  std::int64_t clients() const { return clients_; }
  // Of the thread that calls it, in a handler.
  static Connection& connection();

 private:
  bool process_and_close_socket(socket_t socket) override;
  bool admit();
  void serve(Connection& connection);

  HttpLimits limits_;
  std::atomic<std::int64_t> clients_ = 0;  // that have a place
  std::atomic<std::int64_t> waiting_ = 0;  // that want one
  std::atomic<bool> stopping_ = false;
  std::mutex mutex_;
  std::condition_variable left_;
  std::set<socket_t> sockets_;
};

}  // namespace qad::serve
