// The thread that owns the engine: it takes texts that are asked for, decodes all of them together,
// and hands their pieces to those who answer.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "generate/engine.h"
#include "serve/channel.h"
#include "serve/metrics.h"
#include "serve/texts.h"
#include "text/tokenizer.h"

namespace qad::serve {

class Decoder {
 public:
  struct Options {
    generate::EngineOptions engine;
    std::int64_t most_waiting = 256;   // texts, beside those that are being written
    std::int64_t most_pending = 4096;  // tokens that a client may lag behind
  };
  // Both must outlive it.
  Decoder(const models::Model& model, const text::Tokenizer& tokenizer, const Options& options,
          Metrics& metrics);
  ~Decoder();  // abort()
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  std::int64_t room() const { return engine_.room(); }  // tokens of a prompt with its text
  std::int64_t most_texts() const { return options_.engine.most_sequences + options_.most_waiting; }

  // Throws ApiError: 400 for what the engine refuses, 429 when more would wait than may, 503 after
  // abort().
  std::shared_ptr<Channel> submit(std::vector<Text> texts);
  // Its texts end at the next pass.
  void cancel(const std::shared_ptr<Channel>& channel);
  // Ends all texts with ApiError 503 and takes no more.
  void abort();

 private:
  struct Writing;  // a text
  struct Asked {
    std::shared_ptr<Channel> channel;
    std::size_t choice;
    Text text;
    std::chrono::steady_clock::time_point when;
  };
  void run();
  void add(Asked asked);
  void step();
  void ended(std::int64_t number);
  void publish();

  generate::Engine engine_;
  const text::Tokenizer& tokenizer_;
  Options options_;
  Metrics& metrics_;
  std::map<std::int64_t, std::shared_ptr<Writing>> writing_;  // by the engine's number

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Asked> asked_;
  std::vector<std::shared_ptr<Channel>> unwanted_;
  std::int64_t texts_ = 0;  // asked for, waiting or being written
  bool aborted_ = false;
  std::thread thread_;
};

}  // namespace qad::serve
