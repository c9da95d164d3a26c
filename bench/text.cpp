// Tokenizer speed, and a plain pipe to the tokenizer for tests/peers/tokenizers_equal.py.
//
//   bench_text TOKENIZER_FOLDER TEXT_FILE      MB/s of encoding and decoding, one thread
//   (tokenizers_peer.py: the peer) bench_text --serve TOKENIZER_FOLDER        texts in, ids and
//   decoded texts out, each with an int64 length before
#include <fmt/core.h>

#include <cstdio>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "text/tokenizer.h"
#include "timing.h"

namespace {

using qad::text::TokenId;
using qad::text::Tokenizer;

// Seconds of the fastest of several runs.
template <class F>
double fastest(F run) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 5; ++i) {
    best = std::min(best, qad::bench::seconds(run));
  }
  return best;
}

void measure(const char* folder, const char* file) {
  Tokenizer tokenizer;
  const double load = fastest([&] { tokenizer = qad::text::load_tokenizer(folder); });
  const std::string text = qad::read_text(file);
  std::vector<TokenId> ids;
  std::string back;
  const double encode = fastest([&] { ids = tokenizer.encode(text, false); });
  const double decode = fastest([&] { back = tokenizer.decode(ids, false); });
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  fmt::print("qad: load {:.3f} s, encode {:.2f} MB/s, decode {:.2f} MB/s, {} ids, {}\n", load,
             megabytes / encode, megabytes / decode, ids.size(),
             back == text ? "decodes to itself" : "decodes to another text");
}

void write_block(const void* data, std::size_t count, std::size_t size) {
  const auto n = static_cast<std::int64_t>(count);
  std::fwrite(&n, sizeof n, 1, stdout);
  std::fwrite(data, size, count, stdout);
}

void serve(const char* folder) {
  const Tokenizer tokenizer = qad::text::load_tokenizer(folder);
  std::int64_t bytes = 0;
  while (std::fread(&bytes, sizeof bytes, 1, stdin) == 1) {
    std::string text(static_cast<std::size_t>(bytes), '\0');
    qad::check(std::fread(text.data(), 1, text.size(), stdin) == text.size(), "bench_text",
               "the input ends inside a text");
    const std::vector<TokenId> ids = tokenizer.encode(text, false);
    write_block(ids.data(), ids.size(), sizeof(TokenId));
    const std::string back = tokenizer.decode(ids, false);
    write_block(back.data(), back.size(), 1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    qad::check(argc == 3, "bench_text", "usage: bench_text TOKENIZER_FOLDER TEXT_FILE");
    if (std::string_view(argv[1]) == "--serve")
      serve(argv[2]);
    else
      measure(argv[1], argv[2]);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
