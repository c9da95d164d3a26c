// Recipes: every key reads, prints and reads back; mistakes are named with file, line and the
// nearest right word.
#include "recipe/recipe.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "recipe/steps.h"

namespace qad::recipe {
namespace {

using testing::HasSubstr;

std::string error_of(const std::string& yaml) {
  try {
    parse_recipe(yaml, "r.yaml");
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(Recipe, ReadsNestedKeysOfEveryType) {
  const Recipe r = parse_recipe(R"(
model: m
quantize:
  policy: nvfp4-weight-only
  rules: [{pattern: '*.o_proj', quantize: false}]
  keep_first: 2
data:
  train: [{file: a.jsonl, weight: 3}, b.txt]
  pack: false
train: {steps: 7, learning_rate: 2.5e-6}
samples: {prompts: [hi, ""]}
)",
                                "r.yaml");
  EXPECT_EQ(r.model, "m");
  EXPECT_EQ(r.quantize.policy, "nvfp4-weight-only");
  ASSERT_EQ(r.quantize.rules.size(), 1u);
  EXPECT_EQ(r.quantize.rules[0].pattern, "*.o_proj");
  EXPECT_EQ(r.quantize.keep_first, 2);
  ASSERT_EQ(r.data.train.size(), 2u);
  EXPECT_EQ(r.data.train[0].weight, 3);
  EXPECT_EQ(r.data.train[1].file, "b.txt");
  EXPECT_FALSE(r.data.pack);
  EXPECT_EQ(r.train.steps, 7);
  EXPECT_EQ(r.train.learning_rate, 2.5e-6);
  EXPECT_EQ(r.samples.prompts, (std::vector<std::string>{"hi", ""}));
}

TEST(Recipe, TheCacheIsThePresetsUnlessSaid) {
  const auto policy = [](const std::string& preset, const std::string& word) {
    Recipe r;
    r.quantize.policy = preset;
    if (!word.empty()) set_key(r, "quantize.kv_cache", word, "test");
    return policy_of(r);
  };
  EXPECT_FALSE(policy("nvfp4", "").fp8_cache);
  EXPECT_TRUE(policy("nvfp4", "fp8").fp8_cache);
  EXPECT_TRUE(policy("nvfp4-nano-30b-a3b", "").fp8_cache);
  EXPECT_FALSE(policy("nvfp4-nano-30b-a3b", "none").fp8_cache);
  EXPECT_FALSE(policy("nvfp4-nano-9b-v2", "").fp8_cache);
  EXPECT_TRUE(policy("nvfp4-weight-only", "fp8").needs_maxima());
  EXPECT_FALSE(policy("nvfp4-weight-only", "").needs_maxima());
}

TEST(Recipe, PrintedRecipeReadsBackTheSame) {
  Recipe r = parse_recipe(
      "model: a b\ntrain: {learning_rate: 3e-4}\ndata: {train: x.txt}\nsamples: {prompts: ['a: "
      "b']}\n",
      "r.yaml");
  EXPECT_EQ(to_json(parse_recipe(to_yaml(r), "printed")), to_json(r));
}

TEST(Recipe, EveryKeyCanBeSetToItsOwnDefault) {
  for (const KeyInfo& key : keys()) {
    Recipe r;
    EXPECT_NO_THROW(set_key(r, key.key, key.value, "test")) << key.key << " = " << key.value;
    EXPECT_EQ(to_json(r), to_json(Recipe{})) << key.key;
    EXPECT_FALSE(key.help.empty()) << key.key;
  }
}

struct Mistake {
  const char* yaml;
  std::vector<const char*> said;
};

TEST(Recipe, MistakesAreNamedWithTheirPlace) {
  const Mistake mistakes[] = {
      {"model: m\ntrain:\n  lerning_rate: 1\n",
       {"r.yaml:3", "train.lerning_rate", "did you mean \"train.learning_rate\"?"}},
      {"modle: m\n", {"r.yaml:1", "\"modle\"", "\"model\""}},
      {"train: {steps: many}\n", {"train.steps", "a whole number", "many"}},
      {"train: {steps: 1.5}\n", {"train.steps", "a whole number"}},
      {"train: {steps: -1}\n", {"train.steps", "from 0"}},
      {"train: {learning_rate: .nan}\n", {"train.learning_rate", "finite"}},
      {"train: 3\n", {"train", "expected a mapping"}},
      {"train: {schedule: cosin}\n", {"train.schedule", "cosine", "did you mean"}},
      {"data: {pack: perhaps}\n", {"data.pack", "true or false"}},
      {"data: {train: [{fil: x}]}\n", {"data.train", "\"fil\"", "did you mean \"file\"?"}},
      {"data: {train: [{file: x, weight: 0}]}\n", {"weight", "more than 0"}},
      {"quantize: {rules: [{pattern: x}]}\n", {"quantize.rules", "without \"quantize\""}},
      {"model: [a\n", {"r.yaml", "not YAML"}},
      {"- a\n", {"expected a mapping"}},
      {"train: {steps: 1, steps: 2}\n", {"train.steps", "twice"}},
  };
  for (const Mistake& m : mistakes)
    for (const char* said : m.said) EXPECT_THAT(error_of(m.yaml), HasSubstr(said)) << m.yaml;
}

TEST(Recipe, ValidationNamesTheMissingKey) {
  const auto said = [](Recipe r) {
    try {
      validate(r);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  Recipe good = parse_recipe("model: m\ndata: {train: a.txt, test: b.txt}\n", "r.yaml");
  EXPECT_EQ(said(good), "");
  Recipe r = good;
  r.model.clear();
  EXPECT_THAT(said(r), HasSubstr("model"));
  r = good;
  r.data.test.clear();
  EXPECT_THAT(said(r), HasSubstr("data.test"));
  r = good;
  r.data.train.clear();
  EXPECT_EQ(said(r), "");  // the teacher writes it
  r.data.test.clear();
  EXPECT_EQ(said(r), "");
  r.method = "qat";
  r.loss = {};
  EXPECT_THAT(said(r), HasSubstr("data.t"));
  r = good;
  r.data.train.clear();
  r.method = "qat";
  EXPECT_THAT(said(r), HasSubstr("data.train"));
  r = good;
  r.data.synthesize_tokens = 5;
  EXPECT_THAT(said(r), HasSubstr("data.synthesize_tokens"));
  r = good;
  r.quantize.transform = {"hadamard", "smoothquant"};
  EXPECT_EQ(said(r), "");
  r.quantize.transform = {"smoothquant", "hadamard"};  // a rotation takes the scales with the norms
  EXPECT_THAT(said(r), HasSubstr("hadamard must come first"));
  r = good;
  r.quantize.bits = 5;
  EXPECT_EQ(said(r), "");
  EXPECT_TRUE(quantizes_in_fp32(r));
  r.device = "cuda";
  EXPECT_EQ(said(r), "");
  EXPECT_TRUE(quantizes_in_fp32(r));
  r.quantize.bits = 0;
  EXPECT_FALSE(quantizes_in_fp32(r));
  r = good;
  r.train.micro_sequences = 3;
  EXPECT_THAT(said(r), HasSubstr("divide"));
  r = good;
  r.train.gradients = "bf16";
  EXPECT_THAT(said(r), HasSubstr("train.gradients"));
  r = good;
  r.train.learn_scales = true;
  EXPECT_EQ(said(r), "");
  r.method = "ptq";
  EXPECT_THAT(said(r), HasSubstr("train.learn_scales"));
  r = good;
  r.train.learn_scales = true;
  r.device = "cuda";
  EXPECT_EQ(said(r), "");
  for (const bool gptq : {false, true}) {
    r = good;
    (gptq ? r.quantize.rounding : r.quantize.weight_scales) = gptq ? "gptq" : "hessian";
    EXPECT_EQ(said(r), "");
    r.device = "cuda";
    EXPECT_EQ(said(r), "");
    EXPECT_FALSE(quantizes_in_fp32(r));
    r.device = "cpu";
    r.method = "ptq";
    r.data.train.clear();
    r.quantize.policy = "nvfp4-weight-only";
    EXPECT_THAT(said(r), HasSubstr("calibration.data"));
  }
  r = good;
  r.loss.forward_kl = 0;
  EXPECT_THAT(said(r), HasSubstr("loss"));
}

}  // namespace
}  // namespace qad::recipe
