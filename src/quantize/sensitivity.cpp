// Layer by layer: the residual stream that enters a layer is kept, so that a change in the layer
// costs the layers behind it and the head alone.
#include "quantize/sensitivity.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "ops/head_loss.h"
#include "quantize/quantize.h"

namespace qad::quantize {
namespace {

using models::Linear;
using models::Model;

constexpr std::string_view kOperation = "sensitivity";

// Nats, summed over tokens. The teacher's hidden states are those that its head reads, the
// student's as final_norm leaves them.
double kl_sum(const at::Tensor& teacher_hidden, const at::Tensor& teacher_weight,
              const Model& student, const at::Tensor& student_hidden) {
  ops::HeadInputs in;
  in.student_hidden = models::head_input(student, student_hidden);
  in.student_weight = student.head_weight();
  in.teacher_hidden = teacher_hidden;
  in.teacher_weight = teacher_weight;
  in.labels = at::zeros_like(student_hidden.select(1, 0), at::kLong);
  in.weights = at::ones({student_hidden.size(0)}, student_hidden.options().dtype(at::kFloat));
  ops::LossWeights loss;  // only the figures of each token are wanted
  loss.forward_kl = 0;
  loss.cross_entropy = 1;
  return ops::head_loss(in, loss).kl.sum(at::kDouble).item<double>();
}

// A model's pass over batches, one layer at a time. As the teacher it is the model that it was at
// first.
class Walk {
 public:
  Walk(const Model& model, const std::vector<models::Tokens>& batches)
      : model_(model), batches_(batches), teacher_weight_(model.head_weight()) {
    check(!batches.empty(), kOperation, "expected data, found none");
    for (const models::Tokens& batch : batches) {
      streams_.push_back(models::embed(model, batch));
      hidden_.push_back(models::head_input(model, models::forward(model, batch)));
      tokens_ += hidden_.back().size(0);
    }
  }

  // KL a token of this model to itself with what `changed` makes of a batch's stream in the place
  // of layer `layer`: changed(batch, stream) gives the stream that enters `next`.
  template <class Changed>
  double kl(std::size_t next, const Changed& changed) const {
    double sum = 0;
    for (std::size_t b = 0; b < batches_.size(); ++b) {
      at::Tensor stream = changed(batches_[b], streams_[b]);
      for (std::size_t i = next; i < model_.layers.size(); ++i)
        stream = models::forward_layer(model_, i, batches_[b], stream);
      sum += kl_sum(hidden_[b], teacher_weight_, model_, models::final_norm(model_, stream));
    }
    return sum / static_cast<double>(tokens_);
  }
  // With the head, or all, of another model.
  double kl_of_head(const Model& other) const {
    double sum = 0;
    for (std::size_t b = 0; b < batches_.size(); ++b)
      sum += kl_sum(hidden_[b], teacher_weight_, other, models::final_norm(other, streams_[b]));
    return sum / static_cast<double>(tokens_);
  }
  double kl_of_all(const Model& other) const {
    double sum = 0;
    for (std::size_t b = 0; b < batches_.size(); ++b)
      sum += kl_sum(hidden_[b], teacher_weight_, other, models::forward(other, batches_[b]));
    return sum / static_cast<double>(tokens_);
  }

  void pass(std::size_t layer) {
    for (std::size_t b = 0; b < batches_.size(); ++b)
      streams_[b] = models::forward_layer(model_, layer, batches_[b], streams_[b]);
  }

 private:
  const Model& model_;
  const std::vector<models::Tokens>& batches_;
  std::vector<at::Tensor> streams_;  // that enter the next layer
  std::vector<at::Tensor> hidden_;   // that the teacher's head reads
  at::Tensor teacher_weight_;
  std::int64_t tokens_ = 0;
};

struct Group {
  Sensitivity sensitivity;
  std::vector<Linear*> linears;
};

void add(std::vector<Group>& groups, Linear& l, const std::string& kind) {
  if (groups.empty() || groups.back().sensitivity.layer != l.layer ||
      groups.back().sensitivity.kind != kind) {
    groups.emplace_back();
    groups.back().sensitivity.kind = kind;
    groups.back().sensitivity.layer = l.layer;
  }
  Group& g = groups.back();
  g.linears.push_back(&l);
  g.sensitivity.weights += l.weight.value.numel();
  for (const models::Part& part : l.weight.parts)
    g.sensitivity.patterns.push_back(linear_name(part));
}

// Linears that the policy quantises.
std::vector<Group> groups_of(Model& model, const Policy& policy) {
  std::vector<Group> groups;
  const auto layers = static_cast<std::int64_t>(model.layers.size());
  for (Linear* l : models::linears(model)) {
    const Verdict v = decide(policy, *l, layers);
    if (!v.quantize) continue;
    const bool routed = l->kind.starts_with("expert ");
    add(groups, *l, routed ? "experts" : l->kind);
    Sensitivity& s = groups.back().sensitivity;
    s.least = s.format = v.precision == ops::Precision::fp8 ? Format::fp8 : Format::nvfp4;
  }
  for (Group& g : groups) {
    if (g.sensitivity.kind != "experts") continue;
    // "backbone.layers.3.mixer.experts.0.up_proj"
    const std::string& name = g.sensitivity.patterns.front();
    const std::string experts = name.substr(0, name.rfind(".experts.") + 9);
    g.sensitivity.patterns = {experts + "*"};
  }
  return groups;
}

// Puts what is shipped in the place of a group's weights, and at its end what was there.
class Quantised {
 public:
  using Quants = std::map<const Linear*, std::unique_ptr<models::LinearQuant>>;

  Quantised(const Group& group, Quants& quants, nvfp4::GlobalScale rule)
      : group_(group), quants_(quants) {
    for (Linear* l : group.linears) {
      originals_.push_back(l->weight.value);
      l->quant = std::move(quants.at(l));
      l->weight.value = at::empty_like(originals_.back());
      shipped_value(l->weight.parts.front().name, originals_.back(), l->quant.get(), rule,
                    l->weight.value);
    }
  }
  Quantised(const Quantised&) = delete;
  Quantised& operator=(const Quantised&) = delete;
  ~Quantised() {
    for (std::size_t i = 0; i < originals_.size(); ++i) {
      Linear* l = group_.linears[i];
      quants_.at(l) = std::move(l->quant);
      l->weight.value = originals_[i];
    }
  }

 private:
  const Group& group_;
  Quants& quants_;
  std::vector<at::Tensor> originals_;
};

// How choose_quantised() quantises the linears of an unquantised model, which it stays.
Quantised::Quants quants_by(Model& model, const Policy& policy,
                            const std::vector<float>& input_amax) {
  choose_quantised(model, policy, input_amax);
  Quantised::Quants quants;
  for (Linear* l : models::linears(model))
    if (l->quant) quants[l] = std::move(l->quant);
  return quants;
}

// The same linears, all in FP8.
Policy in_fp8(Policy policy, const std::vector<Group>& groups) {
  for (const Group& g : groups)
    for (const std::string& pattern : g.sensitivity.patterns)
      policy.rules.push_back({pattern, true, "", ops::Precision::fp8});
  return policy;
}

}  // namespace

std::string_view name_of(Format format) {
  return format == Format::bf16  ? "BF16"
         : format == Format::fp8 ? ops::name_of(ops::Precision::fp8)
                                 : ops::name_of(ops::Precision::nvfp4);
}

std::vector<Sensitivity> sensitivities(
    Model& model, const Policy& policy, bool fp8, const std::vector<float>& input_amax,
    const std::vector<models::Tokens>& batches,
    const std::function<void(std::size_t done, std::size_t all)>& progress) {
  const at::NoGradGuard no_grad;
  std::vector<Group> groups = groups_of(model, policy);
  Quantised::Quants by_policy = quants_by(model, policy, input_amax), as_fp8;
  if (fp8) as_fp8 = quants_by(model, in_fp8(policy, groups), input_amax);

  Walk walk(model, batches);
  std::size_t layer = 0;
  std::vector<Sensitivity> out;
  for (Group& g : groups) {
    Sensitivity& s = g.sensitivity;
    const bool head = s.layer < 0;
    const auto here = head ? model.layers.size() : static_cast<std::size_t>(s.layer);
    for (; layer < here; ++layer) walk.pass(layer);
    const auto kl_of = [&](Quantised::Quants& quants) {
      const Quantised quantised(g, quants, policy.global);
      const double kl =
          walk.kl(here, [](const models::Tokens&, const at::Tensor& stream) { return stream; });
      check(std::isfinite(kl), kOperation,
            "{} of layer {}: expected a finite KL when it is quantised, found {}", s.kind, s.layer,
            kl);
      return kl;
    };
    s.kl = kl_of(by_policy);
    if (fp8 && s.least == Format::nvfp4) s.kl_fp8 = kl_of(as_fp8);
    out.push_back(s);
    if (progress) progress(out.size(), groups.size());
  }
  return out;
}

std::vector<Rule> rules_of(const std::vector<Sensitivity>& groups) {
  std::vector<Rule> rules;
  for (const Sensitivity& g : groups)
    if (g.format != g.least)
      for (const std::string& pattern : g.patterns)
        rules.push_back({pattern, g.format == Format::fp8, "sensitive",
                         g.format == Format::fp8 ? ops::Precision::fp8 : ops::Precision::nvfp4});
  return rules;
}

std::string sensitivity_table(const std::vector<Sensitivity>& groups) {
  std::vector<std::string> kinds;
  std::map<int, std::map<std::string, const Sensitivity*>> by_layer;
  for (const Sensitivity& g : groups) {
    if (std::ranges::find(kinds, g.kind) == kinds.end()) kinds.push_back(g.kind);
    by_layer[g.layer][g.kind] = &g;
  }
  const auto mark = [](Format f) { return f == Format::bf16 ? '*' : f == Format::fp8 ? '+' : ' '; };
  std::string text = fmt::format("{:>5}", "layer");
  for (const std::string& kind : kinds) text += fmt::format(" {:>11}", kind);
  for (const auto& [layer, row] : by_layer) {
    text += layer < 0 ? fmt::format("\n{:>5}", "") : fmt::format("\n{:>5}", layer);
    for (const std::string& kind : kinds) {
      const auto cell = row.find(kind);
      text += cell == row.end()
                  ? fmt::format(" {:>11}", "")
                  : fmt::format(" {:>10.3g}{}", cell->second->kl, mark(cell->second->format));
    }
  }
  return text + "\n";
}

std::vector<PartKl> part_kls(
    const Model& a, const Model& b, const std::vector<models::Tokens>& batches,
    const std::function<void(std::size_t done, std::size_t all)>& progress) {
  const at::NoGradGuard no_grad;
  check(a.layers.size() == b.layers.size() && a.config.hidden == b.config.hidden &&
            a.config.vocabulary == b.config.vocabulary,
        kOperation,
        "expected two models of one shape, found {} and {} layers, hidden {} and {}, vocabulary {} "
        "and {}",
        a.layers.size(), b.layers.size(), a.config.hidden, b.config.hidden, a.config.vocabulary,
        b.config.vocabulary);
  std::vector<PartKl> out;
  const std::size_t all = a.layers.size() + 3;
  const auto add = [&](std::string part, double kl) {
    out.push_back({std::move(part), kl});
    if (progress) progress(out.size(), all);
  };
  Walk walk(a, batches);
  add("embedding", walk.kl(0, [&](const models::Tokens& tokens, const at::Tensor&) {
    return models::embed(b, tokens);
  }));
  for (std::size_t i = 0; i < a.layers.size(); ++i) {
    add(fmt::format("layer {}", i),
        walk.kl(i + 1, [&](const models::Tokens& tokens, const at::Tensor& stream) {
          return models::forward_layer(b, i, tokens, stream);
        }));
    walk.pass(i);
  }
  add("head", walk.kl_of_head(b));
  add("all of B", walk.kl_of_all(b));
  return out;
}

}  // namespace qad::quantize
