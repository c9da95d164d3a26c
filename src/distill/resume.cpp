// Names and fingerprints.
#include "distill/resume.h"

#include <cstring>

#include "core/error.h"
#include "core/random.h"

namespace qad::distill {

namespace {

std::string_view name_of(Schedule schedule) {
  switch (schedule) {
    case Schedule::constant:
      return "constant";
    case Schedule::linear:
      return "linear";
    case Schedule::cosine:
      break;
  }
  return "cosine";
}

std::string_view name_of(StateType type) {
  switch (type) {
    case StateType::bf16:
      return "bf16";
    case StateType::int8:
      return "int8";
    case StateType::fp32:
      break;
  }
  return "fp32";
}

std::string_view name_of(nvfp4::BlockScale rule) {
  switch (rule) {
    case nvfp4::BlockScale::mse:
      return "mse";
    case nvfp4::BlockScale::four_over_six:
      return "four_over_six";
    case nvfp4::BlockScale::max:
      break;
  }
  return "max";
}

}  // namespace

Json to_json(const TrainConfig& c) {
  Json out = {{"steps", c.steps},
              {"seq_len", c.seq_len},
              {"batch_sequences", c.batch_sequences},
              {"micro_sequences", c.micro_sequences},
              {"learning_rate", c.learning_rate},
              {"final_fraction", c.final_fraction},
              {"warmup_steps", c.warmup_steps},
              {"schedule", name_of(c.schedule)},
              {"beta1", c.beta1},
              {"beta2", c.beta2},
              {"epsilon", c.epsilon},
              {"weight_decay", c.weight_decay},
              {"clip_norm", c.clip_norm},
              {"seed", c.seed},
              {"validate_every", c.validate_every},
              {"keep_best", c.keep_best},
              {"cache_teacher", c.cache_teacher},
              {"masters", c.split_masters ? "split" : "fp32"},
              {"optimizer_states", name_of(c.optimizer_states)},
              {"gradients", c.bf16_gradients ? "bf16" : "fp32"},
              {"logits", c.bf16_logits ? "bf16" : "fp32"}};
  if (c.learn_scales) {  // absent in points of before: not learned
    out["learn_scales"] = true;
    out["scales_rate"] = c.scales_rate;
  }
  for_each_loss(c.loss, [&](const char* name, double w) { out[std::string("loss.") + name] = w; });
  return out;
}

Json identity_of(const TrainConfig& config, const models::Model& student,
                 const std::vector<ops::Master>& masters, const models::Model* teacher,
                 nvfp4::GlobalScale rule) {
  const auto hex = [](std::uint64_t h) { return fmt::format("{:016x}", h); };
  Json out = to_json(config);
  out["device"] = at::DeviceTypeName(student.placement.device.type(), true);
  if (student.placement.device.is_cpu())
    out["threads"] = at::get_num_threads();
  else
    out.erase("micro_sequences");  // what fits beside a GPU's other users; the step is the same
  std::vector<at::Tensor> weights;
  for (const ops::Master& master : masters) {
    weights.push_back(master.high);
    if (master.split()) weights.push_back(master.low);
  }
  out["model"] = hex(fingerprint(weights));
  if (teacher != nullptr) out["teacher"] = hex(fingerprint(*teacher));
  out["quantize.global_scale"] = rule == nvfp4::GlobalScale::amax ? "amax" : "pow2";
  for (const models::Layer& layer : student.layers)
    if (layer.attention && layer.attention->kv_scales) {
      out["quantize " + key_scale_name(layer)] = layer.attention->kv_scales->key;
      out["quantize " + value_scale_name(layer)] = layer.attention->kv_scales->value;
    }
  for (const models::Linear* l : models::linears(student)) {
    Json& quant = out["quantize " + linear_name(l->weight.parts.front())];
    quant = "no";
    if (l->quant == nullptr) continue;
    const at::Tensor& scales = l->quant->weight_scales;
    quant = {{"weight_scales", scales.defined() ? "chosen: " + hex(fingerprint({scales}))
                                                : std::string(name_of(l->quant->weight_rule))}};
    if (l->quant->precision == ops::Precision::fp8) quant = {{"format", "fp8"}};
    if (!l->quant->input_global) continue;
    quant["input_scales"] = name_of(l->quant->input_rule);
    quant["input_global"] = *l->quant->input_global;
  }
  return out;
}

std::uint64_t fingerprint(const std::vector<data::Batch>& batches) {
  std::vector<at::Tensor> tensors;
  for (const data::Batch& b : batches)
    tensors.insert(tensors.end(),
                   {b.tokens.ids, b.tokens.positions, b.tokens.cu_seqlens, b.labels, b.weights});
  return fingerprint(tensors);
}

std::uint64_t fingerprint(const models::Model& model) {
  std::vector<at::Tensor> tensors;
  for (const models::Parameter* p : models::parameters(model)) {
    if (!p->packed) {
      tensors.push_back(p->value);
      continue;
    }
    tensors.push_back(p->packed->words);
    if (p->packed->scales.defined()) tensors.push_back(p->packed->scales);
    tensors.push_back(at::tensor(p->packed->matrix.globals));
  }
  std::vector<float> scales;
  for (const models::Linear* l : models::linears(model))
    if (l->quant) scales.push_back(l->quant->input_global.value_or(0));
  for (const models::Layer& layer : model.layers)
    if (layer.attention && layer.attention->kv_scales)
      scales.insert(scales.end(),
                    {layer.attention->kv_scales->key, layer.attention->kv_scales->value});
  if (!scales.empty()) tensors.push_back(at::tensor(scales));
  return fingerprint(tensors);
}

std::uint64_t fingerprint(const std::vector<at::Tensor>& tensors) {
  std::uint64_t h = 0;
  for (const at::Tensor& t : tensors) {
    const at::Tensor whole = t.to(at::kCPU).contiguous();
    const auto* bytes = static_cast<const std::byte*>(whole.const_data_ptr());
    const std::size_t size = whole.nbytes();
    h = random_bits(h, size);
    for (std::size_t i = 0; i < size; i += sizeof(std::uint64_t)) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes + i, std::min(sizeof(word), size - i));
      h = mix64(h ^ word);
    }
  }
  return h;
}

void check_same_run(const Json& saved, const Json& now, const std::string& folder) {
  const auto text = [](const Json& run, const std::string& key) {
    return run.contains(key) ? run[key].dump() : "absent";
  };
  Json keys = now;
  keys.update(saved);
  for (const auto& [key, value] : keys.items())
    check(text(saved, key) == text(now, key), "resume",
          "{}: holds a run that cannot go on as this one: {} was {} and is {}; set it back, or "
          "remove the folder to begin anew",
          folder, key, text(saved, key), text(now, key));
}

Json to_json(const std::vector<Validation>& list) {
  Json out = Json::array();
  for (const Validation& v : list)
    out.push_back({{"step", v.step}, {"loss", v.loss}, {"kl", v.kl}, {"ce", v.ce}});
  return out;
}

std::vector<Validation> validations_of(const Json& list) {
  std::vector<Validation> out;
  for (const Json& v : list)
    out.push_back({v.at("step").get<std::int64_t>(), v.at("loss").get<double>(),
                   v.at("kl").get<double>(), v.at("ce").get<double>()});
  return out;
}

}  // namespace qad::distill
