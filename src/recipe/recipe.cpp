// YAML in and out of a Recipe, driven by the key table in recipe.h.
#include "recipe/recipe.h"

#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "core/error.h"
#include "core/nearest.h"

namespace qad::recipe {
namespace {

std::string place(const YAML::Node& node, const std::string& where) {
  return node.Mark().line >= 0 ? fmt::format("{}:{}", where, node.Mark().line + 1) : where;
}

// `kind` is what the user should have written.
template <class T>
T scalar(const YAML::Node& node, const std::string& key, const char* kind,
         const std::string& where) {
  try {
    return node.as<T>();
  } catch (const YAML::Exception&) {
    std::string found = YAML::Dump(node);
    fail("recipe", "{}: {}: expected {}, found \"{}\"", place(node, where), key, kind, found);
  }
}

void refuse_other_keys(const YAML::Node& map, const std::vector<std::string>& known,
                       const std::string& key, const std::string& where) {
  check(map.IsMap(), "recipe", "{}: {}: expected a mapping of {}", place(map, where), key,
        fmt::join(known, ", "));
  for (const auto& entry : map) {
    const auto name = entry.first.as<std::string>("");
    check(std::find(known.begin(), known.end(), name) != known.end(), "recipe",
          "{}: {}: unknown key \"{}\"{}", place(entry.first, where), key, name,
          did_you_mean(name, known));
  }
}

void read(const YAML::Node& n, std::string& out, const std::string& key, const std::string& words,
          const std::string& where) {
  out = scalar<std::string>(n, key, "text", where);
  if (words.empty()) return;
  std::vector<std::string> allowed;
  for (std::size_t i = 0; i <= words.size(); ++i) {
    const std::size_t end = std::min(words.find('|', i), words.size());
    allowed.push_back(words.substr(i, end - i));
    i = end;
  }
  check(std::find(allowed.begin(), allowed.end(), out) != allowed.end(), "recipe",
        "{}: {}: expected one of {}, found \"{}\"{}", place(n, where), key,
        fmt::join(allowed, ", "), out, did_you_mean(out, allowed));
}
void read(const YAML::Node& n, std::int64_t& out, const std::string& key, const std::string&,
          const std::string& where) {
  out = scalar<std::int64_t>(n, key, "a whole number", where);
  check(out >= 0 && out <= std::numeric_limits<std::int32_t>::max(), "recipe",
        "{}: {}: expected a number from 0 to {}, found {}", place(n, where), key,
        std::numeric_limits<std::int32_t>::max(), out);
}
void read(const YAML::Node& n, double& out, const std::string& key, const std::string&,
          const std::string& where) {
  out = scalar<double>(n, key, "a number", where);
  check(std::isfinite(out) && out >= 0, "recipe",
        "{}: {}: expected a finite number from 0, found {}", place(n, where), key, out);
}
void read(const YAML::Node& n, bool& out, const std::string& key, const std::string&,
          const std::string& where) {
  out = scalar<bool>(n, key, "true or false", where);
}
void read(const YAML::Node& n, std::vector<std::string>& out, const std::string& key,
          const std::string&, const std::string& where) {
  out.clear();
  if (n.IsScalar()) {
    out.push_back(n.as<std::string>());
    return;
  }
  check(n.IsSequence(), "recipe", "{}: {}: expected a list of texts", place(n, where), key);
  for (const auto& item : n) out.push_back(scalar<std::string>(item, key, "text", where));
}
void read(const YAML::Node& n, std::vector<DataFile>& out, const std::string& key,
          const std::string&, const std::string& where) {
  out.clear();
  if (n.IsScalar()) {
    out.push_back({n.as<std::string>(), 1});
    return;
  }
  check(n.IsSequence(), "recipe", "{}: {}: expected a file or a list of files", place(n, where),
        key);
  for (const auto& item : n) {
    if (item.IsScalar()) {
      out.push_back({item.as<std::string>(), 1});
      continue;
    }
    refuse_other_keys(item, {"file", "weight"}, key, where);
    check(item["file"].IsDefined(), "recipe", "{}: {}: an entry without \"file\"",
          place(item, where), key);
    DataFile file{scalar<std::string>(item["file"], key + ".file", "a path", where), 1};
    if (item["weight"]) read(item["weight"], file.weight, key + ".weight", "", where);
    check(file.weight > 0, "recipe", "{}: {}.weight: expected more than 0", place(item, where),
          key);
    out.push_back(file);
  }
}
void read(const YAML::Node& n, std::vector<PolicyRule>& out, const std::string& key,
          const std::string&, const std::string& where) {
  out.clear();
  check(n.IsSequence(), "recipe", "{}: {}: expected a list of {{pattern, quantize}}",
        place(n, where), key);
  for (const auto& item : n) {
    refuse_other_keys(item, {"pattern", "quantize"}, key, where);
    check(item["pattern"].IsDefined() && item["quantize"].IsDefined(), "recipe",
          "{}: {}: a rule needs both \"pattern\" and \"quantize\"", place(item, where), key);
    out.push_back({scalar<std::string>(item["pattern"], key + ".pattern", "a glob", where),
                   scalar<bool>(item["quantize"], key + ".quantize", "true or false", where)});
  }
}

YAML::Node write(const std::vector<DataFile>& files) {
  YAML::Node list(YAML::NodeType::Sequence);
  for (const DataFile& f : files) {
    YAML::Node item;
    item["file"] = f.file;
    item["weight"] = f.weight;
    list.push_back(item);
  }
  return list;
}
YAML::Node write(const std::vector<PolicyRule>& rules) {
  YAML::Node list(YAML::NodeType::Sequence);
  for (const PolicyRule& rule : rules) {
    YAML::Node item;
    item["pattern"] = rule.pattern;
    item["quantize"] = rule.quantize;
    list.push_back(item);
  }
  return list;
}
YAML::Node write(const std::vector<std::string>& texts) {
  YAML::Node list(YAML::NodeType::Sequence);
  for (const auto& text : texts) list.push_back(text);
  return list;
}
YAML::Node write(double x) {
  return YAML::Node(fmt::format("{}", x));
}
YAML::Node write(bool x) {
  return YAML::Node(x);
}
YAML::Node write(std::int64_t x) {
  return YAML::Node(x);
}
YAML::Node write(const std::string& x) {
  return YAML::Node(x);
}

Json as_json(const std::vector<DataFile>& files) {
  Json list = Json::array();
  for (const DataFile& f : files) list.push_back({{"file", f.file}, {"weight", f.weight}});
  return list;
}
Json as_json(const std::vector<PolicyRule>& rules) {
  Json list = Json::array();
  for (const PolicyRule& r : rules)
    list.push_back({{"pattern", r.pattern}, {"quantize", r.quantize}});
  return list;
}
template <class T>
Json as_json(const T& value) {
  return value;
}

const std::vector<std::string>& key_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    Recipe r;
    for_each_key(r,
                 [&](const char* key, auto&, const char*, const char*) { all.emplace_back(key); });
    return all;
  }();
  return names;
}

void set_node(Recipe& recipe, const std::string& key, const YAML::Node& value,
              const std::string& where) {
  bool known = false;
  for_each_key(recipe, [&](const char* name, auto& field, const char* words, const char*) {
    if (key != name) return;
    known = true;
    check(!value.IsNull(), "recipe",
          "{}: {}: has no value; leave the key out or give one (\"\" is an empty text)",
          place(value, where), key);
    read(value, field, key, words, where);
  });
  check(known, "recipe", "{}: unknown key \"{}\"{}", place(value, where), key,
        did_you_mean(key, key_names()));
}

bool is_section(const std::string& prefix) {
  for (const auto& name : key_names())
    if (name.starts_with(prefix + ".")) return true;
  return false;
}

YAML::Node parse_yaml(const std::string& text, const std::string& where) {
  try {
    return YAML::Load(text);
  } catch (const YAML::Exception& e) {
    fail("recipe", "{}:{}: not YAML: {}", where, e.mark.line + 1, e.msg);
  }
}

}  // namespace

Recipe parse_recipe(const std::string& yaml, const std::string& where) {
  Recipe recipe;
  const YAML::Node root = parse_yaml(yaml, where);
  check(root.IsMap(), "recipe", "{}: expected a mapping of keys", where);
  std::set<std::string> seen;
  const auto set_once = [&](const std::string& key, const YAML::Node& name,
                            const YAML::Node& value) {
    check(seen.insert(key).second, "recipe", "{}: \"{}\" is given twice", place(name, where), key);
    set_node(recipe, key, value, where);
  };
  for (const auto& entry : root) {
    const auto name = entry.first.as<std::string>("");
    if (!is_section(name)) {
      set_once(name, entry.first, entry.second);
      continue;
    }
    check(entry.second.IsMap(), "recipe", "{}: {}: expected a mapping of keys",
          place(entry.first, where), name);
    for (const auto& inner : entry.second)
      set_once(name + "." + inner.first.as<std::string>(""), inner.first, inner.second);
  }
  return recipe;
}

Recipe load_recipe(const fs::path& file) {
  return parse_recipe(read_text(file), file.string());
}

void set_key(Recipe& recipe, const std::string& key, const std::string& value,
             const std::string& where) {
  YAML::Node node = parse_yaml(value, where);
  if (node.IsNull()) node = YAML::Node("");
  set_node(recipe, key, node, where);
}

void set_assignment(Recipe& recipe, const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  check(equals != std::string::npos, "recipe", "--set {}: expected key=value", assignment);
  set_key(recipe, assignment.substr(0, equals), assignment.substr(equals + 1),
          "--set " + assignment);
}

void validate(const Recipe& r) {
  const auto require = [](bool ok, const char* key, const char* what) {
    check(ok, "recipe", "{}: {}", key, what);
  };
  require(!r.model.empty(), "model", "is missing: name the checkpoint to distil");
  require(!r.output.empty(), "output", "is empty");
  require(!r.data.test.empty(), "data.test",
          "is missing: the table BF16 | PTQ | QAD is measured on it");
  require(r.method == "ptq" || !r.data.train.empty(), "data.train", "is missing");
  require(!r.data.train.empty() || !r.calibration.data.empty() ||
              r.quantize.policy == "nvfp4-weight-only",
          "calibration.data",
          "is missing: input scales need data (or quantize.policy: nvfp4-weight-only)");
  require(r.train.seq_len > 1, "train.seq_len", "must be at least 2");
  require(r.train.batch_sequences > 0, "train.batch_sequences", "must be at least 1");
  require(r.train.micro_sequences == 0 || r.train.batch_sequences % r.train.micro_sequences == 0,
          "train.micro_sequences", "must divide train.batch_sequences");
  require(r.method == "ptq" || r.train.steps > 0, "train.steps", "must be at least 1");
  require(r.method == "ptq" || r.train.learning_rate > 0, "train.learning_rate",
          "must be more than 0");
  require(r.train.beta1 < 1 && r.train.beta2 < 1, "train.beta1, train.beta2",
          "must be less than 1");
  require(r.train.epsilon > 0, "train.epsilon", "must be more than 0");
  require(r.train.final_fraction <= 1, "train.final_fraction", "must be at most 1");
  require(r.calibration.sequences > 0, "calibration.sequences", "must be at least 1");
  require(r.train.cache_folder.empty() || r.train.cache_teacher, "train.cache_folder",
          "is for train.cache_teacher: true");
  require(r.device != "cpu" || r.train.gradients == "fp32", "train.gradients",
          "bf16 is for device: cuda");
  require(r.device != "cpu" || r.train.logits == "fp32", "train.logits",
          "bf16 is for device: cuda");
  require(r.loss.temperature > 0, "loss.temperature", "must be more than 0");
  require(r.quantize.input_headroom >= 1, "quantize.input_headroom",
          "must be at least 1 (clipping is ruinous)");
  require(r.method != "qat" || r.loss == ops::LossWeights{}, "loss",
          "method: qat is cross-entropy alone; leave the weights of losses out");
  require(r.loss.divergences() + r.loss.cross_entropy > 0, "loss",
          "all weights are 0: nothing would be learned");
}

std::vector<KeyInfo> keys() {
  std::vector<KeyInfo> all;
  const Recipe defaults;
  for_each_key(defaults,
               [&](const char* key, const auto& field, const char* words, const char* help) {
                 all.push_back({key, as_json(field).dump(), words, help});
               });
  return all;
}

Json to_json(const Recipe& recipe) {
  Json flat = Json::object();
  for_each_key(recipe, [&](const char* key, const auto& field, const char*, const char*) {
    flat[key] = as_json(field);
  });
  return flat;
}

std::string to_yaml(const Recipe& recipe) {
  YAML::Node root;
  for_each_key(recipe, [&](const char* key, const auto& field, const char*, const char*) {
    const std::string name = key;
    const std::size_t dot = name.find('.');
    if (dot == std::string::npos)
      root[name] = write(field);
    else
      root[name.substr(0, dot)][name.substr(dot + 1)] = write(field);
  });
  return YAML::Dump(root) + "\n";
}

}  // namespace qad::recipe
