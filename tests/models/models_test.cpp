// Logits and greedy continuations against Transformers' (tests/golden/models.py), and the
// equivalences that must hold without a golden.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "models/model.h"
#include "models/verify.h"

namespace qad::models {
namespace {

using ::testing::HasSubstr;

const fs::path kGolden = fs::path(QAD_SOURCE_DIR) / "tests/golden/models";

struct Expected {
  std::map<std::string, at::Tensor> tensors;

  explicit Expected(const fs::path& file) {
    const auto read = checkpoint::read_safetensors(file);
    for (const checkpoint::Tensor& t : read.tensors) {
      const bool ids = t.dtype == checkpoint::DType::i64;
      at::Tensor out = at::empty(t.shape, ids ? at::kLong : at::kFloat);
      if (ids)
        std::memcpy(out.data_ptr(), t.raw.data(), t.raw.size());
      else
        read_f32(t, out.data_ptr<float>());
      tensors[t.name] = out;
    }
  }
  std::vector<std::int32_t> ids(int i) const {
    const at::Tensor t = tensors.at("ids" + std::to_string(i)).to(at::kInt);
    return {t.data_ptr<int>(), t.data_ptr<int>() + t.numel()};
  }
  const at::Tensor& logits(int i) const { return tensors.at("logits" + std::to_string(i)); }
};

class Golden : public ::testing::TestWithParam<const char*> {
 protected:
  const fs::path folder = kGolden / GetParam();
  const checkpoint::Checkpoint c = checkpoint::open(folder);
  const Model model = load(c);
  const Expected expected{folder / "expected.safetensors"};
  const at::NoGradGuard no_grad;

  at::Tensor run(const std::vector<std::vector<std::int32_t>>& documents) const {
    return logits(model, forward(model, tokens_of(documents)));
  }
};

TEST_P(Golden, LogitsAreTransformers) {
  for (int i : {0, 1}) {
    const at::Tensor want = expected.logits(i);
    const at::Tensor all = run({expected.ids(i)});
    const at::Tensor got = all.narrow(0, all.size(0) - want.size(0), want.size(0));
    const double largest = want.abs().max().item<double>();
    EXPECT_LT((got - want).abs().max().item<double>(), 1e-4 * largest) << i;
  }
}

TEST_P(Golden, PackedDocumentsDoNotSeeEachOther) {
  const auto a = expected.ids(0), b = expected.ids(1);
  const auto n = static_cast<std::int64_t>(a.size()), m = static_cast<std::int64_t>(b.size());
  const at::Tensor packed = run({a, b});
  // Another first document changes nothing in the second, bit for bit.
  auto changed = a;
  std::reverse(changed.begin(), changed.end());
  EXPECT_TRUE(at::equal(run({changed, b}).narrow(0, n, m), packed.narrow(0, n, m)));
  // Alone, only the matrix products' shapes differ.
  EXPECT_TRUE(at::allclose(run({b}), packed.narrow(0, n, m), 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(run({a}), packed.narrow(0, 0, n), 1e-5, 1e-5));
}

// The hidden states of tokens that come in pieces of these sizes, then one by one.
at::Tensor decode(const Model& model, const std::vector<std::int32_t>& ids,
                  std::initializer_list<std::ptrdiff_t> sizes) {
  KvCache cache;
  std::vector<at::Tensor> pieces;
  const auto some = [&](auto begin, std::ptrdiff_t n) {
    pieces.push_back(forward_cached(model, {begin, begin + n}, cache));
    return begin + n;
  };
  auto next = ids.begin();
  for (const std::ptrdiff_t n : sizes) next = some(next, n);
  while (next != ids.end()) next = some(next, 1);
  EXPECT_EQ(cache.length, static_cast<std::int64_t>(ids.size()));
  return at::cat(pieces);
}

// Prefill, single tokens, several at once: the same bits, packed or not; and those of a whole
// forward pass but for the order in which attention sums.
TEST_P(Golden, CachedDecodingEqualsForward) {
  const auto ids = expected.ids(0);
  const at::Tensor single = decode(model, ids, {});
  EXPECT_TRUE(at::equal(decode(model, ids, {37, 1, 5, 1}), single));
  EXPECT_TRUE(at::equal(decode(load(c, {.packs_weights = true}), ids, {37, 1, 5, 1}), single));
  EXPECT_TRUE(at::allclose(single, forward(model, tokens_of({ids})), 1e-4, 1e-5));
}

// With an FP8 cache a whole forward pass attends to the keys and values that decoding reads from
// its pages as codes. What is rounded is not quite the same on both ways: a product's sums may have
// another order, and a key at a tie then another code; hence the bulk.
TEST_P(Golden, DecodingFromFp8CodesEqualsForward) {
  Model m = load(c);
  const auto ids = expected.ids(0);
  const at::Tensor plain = forward(m, tokens_of({ids}));
  float scale = 0.011f;  // some keys and values saturate
  bool any = false;
  for (Layer& layer : m.layers)
    if (layer.attention) {
      layer.attention->kv_scales = {scale, scale / 2};
      scale += 0.003f;
      any = true;
    }
  const at::Tensor whole = forward(m, tokens_of({ids}));
  const at::Tensor single = decode(m, ids, {37, 1, 5, 1});
  const double largest = whole.abs().max().item<double>();
  const at::Tensor error = single.sub(whole).abs().div(largest);
  EXPECT_LT(error.max().item<double>(), 0.03);
  EXPECT_GT(error.lt(1e-5).to(at::kFloat).mean().item<double>(), 0.98);
  EXPECT_EQ(whole.sub(plain).abs().max().item<double>() > 0.01 * largest, any);
}

// Gradients of all parameters, bit for bit.
TEST_P(Golden, RecomputedLayersGiveTheSameGradients) {
  const at::AutoGradMode recorded(true);
  const auto gradients = [&](std::int64_t layers, const std::function<void(Model&)>& edit) {
    Model m = load(c);
    m.placement.recomputed_layers = layers;
    edit(m);
    for (Parameter* p : parameters(m)) p->value.set_requires_grad(true);
    const at::Tensor hidden = forward(m, tokens_of({expected.ids(0), expected.ids(1)}));
    (hidden * hidden.detach().cos()).sum().backward();
    std::vector<at::Tensor> out{hidden.detach()};
    for (const Parameter* p : parameters(m)) out.push_back(p->value.grad());
    return out;
  };
  const auto same = [&](const std::function<void(Model&)>& edit) {
    const auto plain = gradients(0, edit);
    for (std::int64_t layers = 1; layers <= static_cast<std::int64_t>(model.layers.size());
         ++layers) {
      const auto again = gradients(layers, edit);
      for (std::size_t i = 0; i < plain.size(); ++i) {
        ASSERT_EQ(again[i].defined(), plain[i].defined()) << i;
        EXPECT_TRUE(!plain[i].defined() || at::equal(again[i], plain[i])) << i;
      }
    }
  };
  same([](Model&) {});
  // Of an attention alone what enters leaves as it is; a layer of nothing hands both on.
  same([](Model& m) {
    m.layers[0].mlp.reset(), m.layers[0].experts.reset(), m.layers[0].feed_forward_norm.reset();
  });
  same([](Model& m) {
    m.layers[0].attention.reset(), m.layers[0].mamba.reset(), m.layers[0].mixer_norm.reset();
  });
  same([](Model& m) { m.layers[1] = {}; });
}

TEST(Recomputed, FrozenEmbeddingsStillTrainLayers) {
  const at::AutoGradMode recorded(true);
  const auto gradient = [&](std::int64_t layers) {
    Model m = load(checkpoint::open(kGolden / "llama"));
    m.placement.recomputed_layers = layers;
    at::Tensor& weight = m.layers[0].attention->qkv.weight.value;
    weight.set_requires_grad(true);
    forward(m, tokens_of({{3, 1, 4, 1, 5}})).sum().backward();
    return weight.grad();
  };
  const at::Tensor plain = gradient(0);
  EXPECT_TRUE(at::equal(gradient(1), plain));
  EXPECT_TRUE(at::equal(gradient(2), plain));
}

TEST_P(Golden, HasNoProblems) {
  EXPECT_THAT(problems(c), ::testing::IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Models, Golden,
                         ::testing::Values("llama", "llama_bias_tied", "qwen2", "qwen3_yarn",
                                           "mistral", "nemotron_h", "nemotron_h_experts",
                                           "nemotron_h_all", "qwen3_moe", "qwen3_moe_normed"),
                         [](const auto& info) { return std::string(info.param); });

// Each edit of a good checkpoint gives one error that names the tensor.
struct Broken {
  const char* what;
  std::function<void(checkpoint::Checkpoint&)> edit;
  const char* message;
};

class BadCheckpoint : public ::testing::TestWithParam<Broken> {};

TEST_P(BadCheckpoint, IsOneClearError) {
  auto c = checkpoint::open(kGolden / "llama");
  GetParam().edit(c);
  EXPECT_THAT(problems(c), ::testing::ElementsAre(HasSubstr(GetParam().message)));
  try {
    load(c);
    FAIL() << "expected an Error";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr(GetParam().message));
  }
}

// Makes tensor `name` return `value` at its last element.
void poison(checkpoint::Checkpoint& c, const std::string& name, float value) {
  checkpoint::Tensor& t = c.tensors.at(name);
  const checkpoint::Tensor original = t;
  t.read = std::make_shared<const std::function<void(float*)>>([=](float* out) {
    read_f32(original, out);
    out[original.elements() - 1] = value;
  });
}

const Broken kBroken[] = {
    {"Missing", [](auto& c) { c.tensors.erase("model.layers.1.mlp.up_proj.weight"); },
     "model.layers.1.mlp.up_proj.weight: expected [48, 32] from config.json, found no such tensor"},
    {"Extra", [](auto& c) { c.tensors["model.layers.2.x"] = c.tensors.at("model.norm.weight"); },
     "model.layers.2.x: not part of a LlamaForCausalLM with this config.json, found BF16 [32]"},
    {"Misshapen",
     [](auto& c) {
       c.tensors.at("model.norm.weight").shape = {16, 2};
     },
     "model.norm.weight: expected [32] from config.json, found [16, 2]"},
    {"NotANumber", [](auto& c) { poison(c, "model.layers.0.self_attn.k_proj.weight", NAN); },
     "model.layers.0.self_attn.k_proj.weight: expected finite values, found nan at element 1023"},
    {"Infinite", [](auto& c) { poison(c, "model.embed_tokens.weight", -INFINITY); },
     "model.embed_tokens.weight: expected finite values, found -inf at element 3071"},
    {"Integers", [](auto& c) { c.tensors.at("lm_head.weight").dtype = checkpoint::DType::i16; },
     "lm_head.weight: expected F32, F16 or BF16, found I16"},
};
INSTANTIATE_TEST_SUITE_P(Models, BadCheckpoint, ::testing::ValuesIn(kBroken),
                         [](const auto& info) { return std::string(info.param.what); });

// Every way in which experts can be broken names the layer.
TEST(Experts, BrokenOnesAreOneClearError) {
  const std::string expert = "backbone.layers.3.mixer.experts.5.";
  const auto error_of = [&](auto&& edit) {
    auto c = checkpoint::open(kGolden / "nemotron_h_experts");
    edit(c);
    try {
      load(c);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("none");
  };
  EXPECT_THAT(error_of([&](auto& c) { c.tensors.erase(expert + "down_proj.weight"); }),
              HasSubstr(expert + "down_proj.weight: expected [32, 48] from config.json, found no "
                                 "such tensor"));
  EXPECT_THAT(error_of([](auto& c) {
                c.tensors.erase("backbone.layers.0.mixer.gate.e_score_correction_bias");
              }),
              HasSubstr("backbone.layers.0.mixer.gate.e_score_correction_bias: expected [8]"));
  EXPECT_THAT(error_of([](auto& c) { c.config["n_routed_experts"] = 6; }),
              HasSubstr("backbone.layers.0.mixer.gate.weight: expected [6, 32] from config.json"));
  EXPECT_THAT(error_of([](auto& c) { c.config["num_experts_per_tok"] = 5; }),
              HasSubstr("layer 0 (experts): expected at most the 4 experts of topk_group 1"));
}

// The correction chooses in FP32: neither the model's type nor its file rounds it.
TEST(Experts, CorrectionIsAsStored) {
  const auto c = checkpoint::open(kGolden / "nemotron_h_experts");
  const Model model = load(c);
  const at::Tensor& correction = model.layers[3].experts->correction->value;
  std::vector<float> stored(8);
  read_f32(c.at("backbone.layers.3.mixer.gate.e_score_correction_bias"), stored.data());
  EXPECT_TRUE(at::equal(correction, at::tensor(stored)));
  EXPECT_FALSE(at::equal(correction, correction.to(at::kBFloat16).to(at::kFloat)));
}

TEST(Problems, ReportWhateverStopsThem) {
  auto c = checkpoint::open(kGolden / "llama");
  auto& t = c.tensors.begin()->second;
  t.read = std::make_shared<const std::function<void(float*)>>(
      [](float*) { throw std::length_error("odd"); });
  EXPECT_THAT(problems(c), ::testing::ElementsAre("odd"));
}

// The golden files hold each parameter once.
TEST(Build, CountsParameters) {
  for (const char* name : {"llama", "llama_bias_tied", "qwen2", "qwen3_yarn", "nemotron_h"}) {
    const auto c = checkpoint::open(kGolden / name);
    std::int64_t count = 0;
    for (const auto& [tensor, t] : c.tensors) count += t.elements();
    EXPECT_EQ(parameter_count(parse_config(c.config, c.generation_config)), count) << name;
  }
}

TEST(Load, IgnoresWhatOldVersionsSaved) {
  auto c = checkpoint::open(kGolden / "qwen2");  // tied
  c.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = c.tensors.at("model.norm.weight");
  c.tensors["lm_head.weight"] = c.tensors.at("model.embed_tokens.weight");
  EXPECT_THAT(problems(c), ::testing::IsEmpty());
  EXPECT_NO_THROW(load(c));
  poison(c, "lm_head.weight", 1);
  EXPECT_THAT(problems(c), ::testing::ElementsAre(HasSubstr("tie_word_embeddings is true")));
  EXPECT_THROW(load(c), Error);
}

TEST(Build, HasShapesWithoutStorage) {
  const auto c = checkpoint::open(kGolden / "llama");
  Model model = build(parse_config(c.config, c.generation_config));
  std::int64_t parameters_in_model = 0, parameters_in_file = 0;
  for (const Parameter* p : parameters(model)) parameters_in_model += p->value.numel();
  for (const auto& [name, t] : c.tensors) parameters_in_file += t.elements();
  EXPECT_EQ(parameters_in_model, parameters_in_file);
  EXPECT_EQ(linears(model).back()->kind, "lm_head");
}

TEST(Forward, RejectsForeignTokens) {
  const Model model = load(checkpoint::open(kGolden / "llama"));
  EXPECT_THROW(forward(model, tokens_of({{1, 96}})), Error);
  EXPECT_THROW(forward(model, tokens_of({{-1}})), Error);
  EXPECT_THROW(forward(model, tokens_of({})), Error);
}

// What a CPU can show of it: another type in the same place.
TEST(MoveTo, RoundsValuesAndKeepsWhatIsNone) {
  Model model =
      load(checkpoint::open(fs::path(QAD_SOURCE_DIR) / "tests/golden/models/nemotron_h_experts"));
  Linear& quantised = *linears(model).front();
  quantised.quant = std::make_unique<LinearQuant>();
  quantised.quant->weight_scales = at::full({2, 3}, 7, at::kByte);
  quantised.quant->clipped = at::full({}, 5, at::kLong);
  quantised.quant->seen = 9;
  std::vector<at::Tensor> before;
  for (const Parameter* p : parameters(model)) before.push_back(p->value);
  move_to(model, {at::kCPU, at::kBFloat16, true, 2});
  std::size_t i = 0, constants = 0;
  for (const Parameter* p : parameters(model)) {
    constants += p->constant;
    EXPECT_TRUE(at::equal(p->value, p->constant ? before[i] : before[i].to(at::kBFloat16)));
    ++i;
  }
  EXPECT_GT(constants, 0u);
  EXPECT_TRUE(at::equal(quantised.quant->weight_scales, at::full({2, 3}, 7, at::kByte)));
  EXPECT_FALSE(quantised.quant->clipped.defined());
  EXPECT_EQ(quantised.quant->seen, 0);
  EXPECT_TRUE(model.placement.packs_inputs);
  EXPECT_EQ(model.placement.recomputed_layers, 2);
}

}  // namespace
}  // namespace qad::models
