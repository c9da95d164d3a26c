// A checkpoint's tensors into a model's FP32 values: parts one below the other, NVFP4 dequantised.
#include <ATen/ops/empty.h>

#include <atomic>

#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"
#include "models/verify.h"

namespace qad::models {
namespace {

constexpr std::string_view kOperation = "load_checkpoint";

// One tensor to read; large ones first, so that threads end together.
struct Job {
  std::int64_t elements;
  std::function<void()> read;
};

void run(std::vector<Job> jobs) {
  std::sort(jobs.begin(), jobs.end(),
            [](const Job& a, const Job& b) { return a.elements > b.elements; });
  std::atomic<std::size_t> next = 0;
  at::parallel_for(0, at::get_num_threads(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t worker = begin; worker < end; ++worker)
      for (std::size_t i; (i = next++) < jobs.size();) jobs[i].read();
  });
}

std::unique_ptr<LinearQuant> quant_of(const checkpoint::Nvfp4Weight& w) {
  auto quant = std::make_unique<LinearQuant>();
  quant->weight_global = w.global_scale;
  quant->input_global = w.input_scale;
  return quant;
}

}  // namespace

Model load(const checkpoint::Checkpoint& c) {
  Model model = build(parse_config(c.config, c.generation_config));
  const auto wrong = structural_problems(model, c);
  check(wrong.empty(), kOperation, "{}: {}{}", c.path.string(), wrong.empty() ? "" : wrong.front(),
        wrong.size() < 2 ? ""
                         : fmt::format(" (and {} more: qad verify lists them)", wrong.size() - 1));

  std::vector<Job> jobs;
  const auto plain = [&](const Part& part, float* out) {
    const checkpoint::Tensor& t = c.at(part.name);
    jobs.push_back({t.elements(), [&c, &t, out] {
                      const std::string bad = read_finite(t, out);
                      check(bad.empty(), kOperation, "{}: {}", c.path.string(), bad);
                    }});
  };
  // Calls `read` for each part and where its rows begin.
  const auto parts = [](Parameter& p, auto&& read) {
    p.value = at::empty(p.value.sizes(), at::kFloat);
    float* out = p.value.data_ptr<float>();
    const std::int64_t cols = p.value.numel() / p.value.size(0);
    for (const Part& part : p.parts) {
      read(part, out);
      out += part.rows * cols;
    }
  };
  for (Linear* l : linears(model))
    parts(l->weight, [&](const Part& part, float* out) {
      const auto w = find_nvfp4(c, linear_name(part));
      if (!w) return plain(part, out);
      if (!l->quant) l->quant = quant_of(*w);
      jobs.push_back({w->rows * w->cols, [w = *w, out] {
                        nvfp4::dequantize(reinterpret_cast<const std::uint8_t*>(w.codes.data()),
                                          reinterpret_cast<const std::uint8_t*>(w.scales.data()),
                                          w.rows, w.cols, w.global_scale, out);
                      }});
    });
  for (Parameter* p : parameters(model))
    if (p->value.is_meta()) parts(*p, plain);
  run(std::move(jobs));

  const std::string tied = tied_head_problem(model, c);
  check(tied.empty(), kOperation, "{}: {}", c.path.string(), tied);
  return model;
}

}  // namespace qad::models
