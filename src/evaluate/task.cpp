// Task files: read, found by name, changed by settings.
#include "evaluate/task.h"

#include <algorithm>

#include "core/yaml_keys.h"

namespace qad::evaluate {
namespace {

void make_absolute(std::string& path, const fs::path& folder) {
  if (!path.empty() && fs::path(path).is_relative())
    path = (folder / path).lexically_normal().string();
}

}  // namespace

Task parse_task(const std::string& yaml, const fs::path& file) {
  Task task = yaml::parse<Task>(yaml, {"task", file.string()});
  task.name = file.stem().string();
  if (task.title.empty()) task.title = task.name;
  for (std::string* path : {&task.data, &task.documents, &task.tests})
    make_absolute(*path, file.parent_path());
  return task;
}

std::vector<std::string> task_names(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder, none))
    if (entry.path().extension() == ".yaml") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

Task load_task(const std::string& name, const fs::path& folder) {
  fs::path file = name;
  if (file.extension() != ".yaml") {
    const std::vector<std::string> known = task_names(folder);
    check(std::find(known.begin(), known.end(), name) != known.end(), "task",
          "\"{}\": no such task{}; there are {} (in {}), or give the path of a .yaml", name,
          did_you_mean(name, known), fmt::join(known, ", "), folder.string());
    file = folder / (name + ".yaml");
  }
  Task task = parse_task(read_text(file), file);
  validate(task);
  return task;
}

void set_task_key(std::vector<Task>& tasks, const std::string& assignment) {
  const std::size_t equals = assignment.find('='), dot = assignment.find('.');
  check(dot < equals && equals != std::string::npos, "task", "{}: expected TASK.KEY=VALUE",
        assignment);
  const std::string name = assignment.substr(0, dot);
  const std::string key = assignment.substr(dot + 1, equals - dot - 1);
  std::vector<std::string> known;
  for (Task& task : tasks) {
    known.push_back(task.name);
    if (name == "*" || name == task.name)
      yaml::set(task, key, assignment.substr(equals + 1), {"task", assignment});
  }
  check(name == "*" || std::find(known.begin(), known.end(), name) != known.end(), "task",
        "{}: no task \"{}\" here; there are {}, or * for all", assignment, name,
        fmt::join(known, ", "));
}

void apply_protocol(std::vector<Task>& tasks, const fs::path& file) {
  const yaml::Source source{"protocol", file.string()};
  const YAML::Node root = source.parse(read_text(file));
  check(root.IsMap(), source.operation, "{}: expected {{TASK: {{KEY: VALUE}}}}", source.file);
  for (const auto& section : root) {
    check(section.second.IsMap(), source.operation, "{}: {}: expected a mapping of keys",
          source.at(section.first), section.first.as<std::string>(""));
    const auto name = section.first.as<std::string>("");
    for (const auto& entry : section.second) {
      Task unused;  // keys of tasks that are not here are checked, too
      yaml::set_node(unused, entry.first.as<std::string>(""), entry.second, source);
      for (Task& task : tasks)
        if (name == "*" || name == task.name)
          yaml::set_node(task, entry.first.as<std::string>(""), entry.second, source);
    }
  }
}

void validate(const Task& t) {
  const auto require = [&](bool ok, const char* key, const char* what) {
    check(ok, "task", "{}: {}: {}", t.name, key, what);
  };
  require(!t.prompt.empty(), "prompt", "is missing");
  require(t.top_p <= 1, "top_p", "must be at most 1");
  require(t.min_p <= 1, "min_p", "must be at most 1");
  require((t.extract == "regex") == !t.pattern.empty(), "pattern", "belongs to extract: regex");
  require((t.score == "choice") == !t.choices.empty(), "choices", "belong to score: choice");
  require(!t.shuffle || !t.choices.empty(), "shuffle", "is for choices");
  const bool compared =
      t.score == "exact" || t.score == "math" || t.score == "choice" || t.score == "judge";
  require(compared == !t.answer.empty(), "answer",
          "belongs to score: exact, math, choice and judge, and to no other");
  require((t.score == "judge") == !t.judge_prompt.empty(), "judge_prompt",
          "belongs to score: judge");
  require(t.document_paths.empty() || t.score != "scicode", "document_paths",
          "are for prompts of one step");
}

Json to_json(const Task& task) {
  return yaml::to_json(task);
}

Task task_of(const Json& json, const std::string& where) {
  Task task;
  for (const auto& [key, value] : json.items())
    if (key == "name")
      task.name = value.get<std::string>();
    else
      yaml::set(task, key, value.dump(), {"task", where});
  return task;
}

}  // namespace qad::evaluate
