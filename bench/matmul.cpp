// Our matrix products beside LibTorch's (MKL) at the shapes of stories260K and SmolLM2-135M, one
// thread and all: they take turns, so that what else the machine does hits both.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "core/error.h"
#include "ops/allocator.h"
#include "ops/product.h"
#include "timing.h"

namespace {

using at::Tensor;
using qad::bench::seconds;

struct Shape {
  const char* name;
  std::int64_t tokens, in, out;
};
const Shape kShapes[] = {
    {"stories260K qkv", 4096, 64, 128},     {"stories260K output", 4096, 64, 64},
    {"stories260K gate_up", 4096, 64, 352}, {"stories260K down", 4096, 176, 64},
    {"stories260K head", 1024, 64, 512},    {"SmolLM2-135M qkv", 512, 576, 960},
    {"SmolLM2-135M output", 512, 576, 576}, {"SmolLM2-135M gate_up", 512, 576, 3072},
    {"SmolLM2-135M down", 512, 1536, 576},  {"SmolLM2-135M head", 160, 576, 49152}};

void compare(const Shape& s, const char* form, const Tensor& a, const Tensor& b) {
  const Tensor mine = at::empty({a.size(0), b.size(1)}), its = at::empty_like(mine);
  const auto ours = [&] { qad::ops::product_into(mine, a, b); };
  const auto theirs = [&] { at::mm_out(const_cast<Tensor&>(its), a, b); };
  const double flop = 2.0 * static_cast<double>(s.tokens * s.in * s.out);
  std::vector<double> ratios;
  double best = 1e9, best_theirs = 1e9;
  for (int i = 0; i < 15; ++i) {
    const double t = seconds(theirs), o = seconds(ours);
    ratios.push_back(t / o);
    best = std::min(best, o);
    best_theirs = std::min(best_theirs, t);
  }
  std::sort(ratios.begin(), ratios.end());
  fmt::print("  {:<22} {:<3} {:8.1f} {:8.1f} {:8.2f}\n", s.name, form, flop / best / 1e9,
             flop / best_theirs / 1e9, ratios[ratios.size() / 2]);
}

}  // namespace

int main() {
  qad::ops::install_allocator();
  for (const int threads : {1, at::get_num_threads()}) {
    at::set_num_threads(threads);
    fmt::print("{} threads: GFLOP/s at best of ours and of MKL, median ratio\n", threads);
    for (const Shape& s : kShapes) {
      const Tensor x = at::randn({s.tokens, s.in}), w = at::randn({s.out, s.in});
      const Tensor dy = at::randn({s.tokens, s.out});
      compare(s, "y", x, w.t());
      compare(s, "dx", dy, w);
      compare(s, "dW", dy.t(), x);
    }
  }
}
