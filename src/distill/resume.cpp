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

}  // namespace

Json to_json(const TrainConfig& c) {
  return {{"steps", c.steps},
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
          {"loss.forward_kl", c.loss.forward_kl},
          {"loss.reverse_kl", c.loss.reverse_kl},
          {"loss.jensen_shannon", c.loss.jensen_shannon},
          {"loss.mse", c.loss.mse},
          {"loss.cross_entropy", c.loss.cross_entropy},
          {"loss.temperature", c.loss.temperature},
          {"seed", c.seed},
          {"validate_every", c.validate_every},
          {"keep_best", c.keep_best},
          {"cache_teacher", c.cache_teacher}};
}

std::uint64_t fingerprint(const std::vector<at::Tensor>& tensors) {
  std::uint64_t h = 0;
  for (const at::Tensor& t : tensors) {
    const at::Tensor whole = t.contiguous();
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
  for (const auto& [key, value] : now.items()) {
    const std::string before = saved.contains(key) ? saved[key].dump() : "not recorded";
    check(before == value.dump(), "resume",
          "{}: holds a run that cannot go on as this one: {} was {} and is {}; set it back, or "
          "remove the folder to begin anew",
          folder, key, before, value.dump());
  }
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
