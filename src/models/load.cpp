// A checkpoint's tensors into a model's values: parts one below the other, NVFP4 dequantised.
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

#include <atomic>
#include <cmath>
#include <limits>

#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"
#include "models/device_copy.h"
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

// Stored as the model wants it, so that no value has to pass through the CPU's registers.
bool copies_as_it_is(const checkpoint::Tensor& t, const at::Tensor& rows) {
  return !t.read && !t.raw.empty() && t.dtype == checkpoint::DType::bf16 &&
         rows.scalar_type() == at::kBFloat16;
}

// Where in a file a tensor's bytes are.
FileCopy file_copy(const checkpoint::Checkpoint& c, const checkpoint::Tensor& t,
                   const at::Tensor& to) {
  for (const MappedFile& file : c.files) {
    const auto bytes = file.bytes();
    if (t.raw.data() >= bytes.data() && t.raw.data() + t.raw.size() <= bytes.data() + bytes.size())
      return {&file, static_cast<std::size_t>(t.raw.data() - bytes.data()), to};
  }
  fail(kOperation, "{}: {}: expected its bytes in one of the checkpoint's files", c.path.string(),
       t.name);
}

// What went to a GPU without being looked at on the way.
void check_finite(const Model& model, const fs::path& path) {
  if (model.placement.device.is_cpu()) return;
  std::vector<const Part*> parts;
  // The largest magnitude is infinite or NaN if any value is: one pass without temporaries, and one
  // wait for all.
  std::vector<at::Tensor> largest;
  for (const Parameter* p : parameters(model)) {
    std::int64_t row = 0;
    for (const Part& part : p->parts) {
      parts.push_back(&part);
      largest.push_back(at::linalg_vector_norm(p->value.narrow(0, row, part.rows),
                                               std::numeric_limits<double>::infinity()));
      row += part.rows;
    }
  }
  const at::Tensor found = at::stack(largest).to(at::kCPU, at::kFloat);
  for (std::size_t i = 0; i < parts.size(); ++i)
    check(std::isfinite(found.const_data_ptr<float>()[i]), kOperation,
          "{}: {}: expected finite values, found an infinity or NaN", path.string(),
          parts[i]->name);
}

}  // namespace

Model load(const checkpoint::Checkpoint& c, const Placement& placement) {
  Model model = build(parse_config(c.config, c.generation_config));
  model.placement = placement;
  const auto wrong = structural_problems(model, c);
  check(wrong.empty(), kOperation, "{}: {}{}", c.path.string(), wrong.empty() ? "" : wrong.front(),
        wrong.size() < 2 ? ""
                         : fmt::format(" (and {} more: qad verify lists them)", wrong.size() - 1));

  std::vector<Job> jobs;
  std::vector<FileCopy> copies;
  // Calls fill with room for a part's values, which are `rows`' in FP32.
  const auto fill = [&](at::Tensor rows, std::function<void(float*)> fill) {
    jobs.push_back({rows.numel(), [rows, fill = std::move(fill)] {
                      if (rows.is_cpu() && rows.scalar_type() == at::kFloat)
                        return fill(rows.data_ptr<float>());
                      const at::Tensor values = at::empty(rows.sizes(), at::kFloat);
                      fill(values.data_ptr<float>());
                      rows.copy_(values.to(rows.scalar_type()));
                    }});
  };
  const auto plain = [&](const Part& part, const at::Tensor& rows) {
    const checkpoint::Tensor& t = c.at(part.name);
    if (!rows.is_cpu() && copies_as_it_is(t, rows))
      copies.push_back(file_copy(c, t, rows));
    else
      fill(rows, [&c, &t](float* out) {
        const std::string bad = read_finite(t, out);
        check(bad.empty(), kOperation, "{}: {}", c.path.string(), bad);
      });
  };
  // Calls `read` for each part and its rows.
  const auto parts = [&](Parameter& p, auto&& read) {
    p.value = at::empty(p.value.sizes(),
                        at::TensorOptions().dtype(placement.type).device(placement.device));
    std::int64_t row = 0;
    for (const Part& part : p.parts) {
      read(part, p.value.narrow(0, row, part.rows));
      row += part.rows;
    }
  };
  for (Linear* l : linears(model))
    parts(l->weight, [&](const Part& part, const at::Tensor& rows) {
      const auto w = find_nvfp4(c, linear_name(part));
      if (!w) return plain(part, rows);
      if (!l->quant) l->quant = quant_of(*w);
      fill(rows, [w = *w](float* out) {
        nvfp4::dequantize(reinterpret_cast<const std::uint8_t*>(w.codes.data()),
                          reinterpret_cast<const std::uint8_t*>(w.scales.data()), w.rows, w.cols,
                          w.global_scale, out);
      });
    });
  for (Parameter* p : parameters(model))
    if (p->value.is_meta()) parts(*p, plain);
  run(std::move(jobs));
  copy_to_device(std::move(copies));
  check_finite(model, c.path);

  const std::string tied = tied_head_problem(model, c);
  check(tied.empty(), kOperation, "{}: {}", c.path.string(), tied);
  return model;
}

}  // namespace qad::models
