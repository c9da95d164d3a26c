// A task's problems: records, choices in their order, references, prompts.
#include <algorithm>
#include <sstream>

#include "core/csv.h"
#include "core/error.h"
#include "core/random.h"
#include "evaluate/task.h"
#include "text/chat_template.h"

namespace qad::evaluate {
namespace {

std::string needs_of(const Task& task) {
  return task.needs.empty() ? std::string() : "; it needs " + task.needs;
}

std::vector<Json> read_records(const Task& task) {
  check(!task.data.empty(), "task", "{}: data: no file is given; say --set {}.data=FILE{}",
        task.name, task.name, needs_of(task));
  const fs::path file = task.data;
  check(fs::exists(file), "task", "{}: data: {}: there is no such file{}", task.name, task.data,
        needs_of(task));
  const std::string text = read_text(file), extension = file.extension().string();
  std::vector<Json> records;
  if (extension == ".csv") {
    const auto rows = parse_csv(text, task.data);
    for (std::size_t i = 1; i < rows.size(); ++i) {
      Json record = Json::object();
      for (std::size_t column = 0; column < rows[0].size(); ++column)
        record[rows[0][column]] = rows[i][column];
      records.push_back(std::move(record));
    }
  } else if (extension == ".json") {
    const Json all = parse_json(text, task.data);
    check(all.is_array(), "task", "{}: expected a list of problems", task.data);
    records.assign(all.begin(), all.end());
  } else {
    check(extension == ".jsonl", "task", "{}: data: {}: expected .jsonl, .json or .csv", task.name,
          task.data);
    std::istringstream lines(text);
    std::int64_t number = 0;
    for (std::string line; std::getline(lines, line);)
      records.push_back(parse_json(line, fmt::format("{}:{}", task.data, ++number)));
  }
  for (std::size_t i = 0; i < records.size(); ++i)
    check(records[i].is_object(), "task", "{}: record {}: expected an object", task.data, i);
  check(!records.empty(), "task", "{}: no problems in it", task.data);
  if (task.problems > 0 && records.size() > static_cast<std::size_t>(task.problems))
    records.resize(static_cast<std::size_t>(task.problems));
  return records;
}

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

const Json& field(const Task& task, const Json& record, const std::string& name) {
  check(record.contains(name), "task", "{}: {}: a record without the field \"{}\"", task.name,
        task.data, name);
  return record[name];
}

std::string letter(std::size_t i) {
  return std::string(1, static_cast<char>('A' + i));
}

// Jinja's whitespace control is the file's own affair; what surrounds a message is not.
std::string render(const Task& task, const char* key, const std::string& jinja,
                   const Json& variables) {
  try {
    const std::string text = text::ChatTemplate(jinja).render(variables).text;
    const std::size_t begin = text.find_first_not_of(" \t\r\n");
    if (begin == std::string::npos) return {};
    return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
  } catch (const Error& e) {
    fail("task", "{}: {}: {}", task.name, key, e.what());
  }
}

Json variables_of(const Problem& problem) {
  Json variables = problem.fields;
  variables["problem"] = problem.fields;
  variables["choices"] = Json::array();
  for (std::size_t i = 0; i < problem.choices.size(); ++i)
    variables["choices"].push_back({{"letter", letter(i)}, {"text", problem.choices[i]}});
  return variables;
}

// Of choices as they stand in the record: which one `answer` means, by letter, number or text.
std::size_t right_choice(const Task& task, const std::vector<std::string>& choices,
                         const std::string& answer, const std::string& id) {
  const auto same = std::find(choices.begin(), choices.end(), answer);
  if (same != choices.end()) return static_cast<std::size_t>(same - choices.begin());
  if (answer.size() == 1) {
    const char c = answer[0];
    const std::size_t i = c >= 'A' && c <= 'Z'   ? static_cast<std::size_t>(c - 'A')
                          : c >= 'a' && c <= 'z' ? static_cast<std::size_t>(c - 'a')
                          : c >= '0' && c <= '9' ? static_cast<std::size_t>(c - '0')
                                                 : choices.size();
    if (i < choices.size()) return i;
  }
  fail("task",
       "{}: problem {}: answer \"{}\": expected the text of one of its {} choices, its letter or "
       "its number from 0",
       task.name, id, answer, choices.size());
}

void read_choices(const Task& task, Problem& problem, Random& random) {
  std::vector<std::string> choices;
  for (const std::string& name : task.choices) {
    const Json& value = field(task, problem.fields, name);
    if (value.is_array())
      for (const Json& item : value) choices.push_back(text_of(item));
    else
      choices.push_back(text_of(value));
  }
  check(choices.size() >= 2 && choices.size() <= 26, "task",
        "{}: problem {}: expected 2 to 26 choices, found {}", task.name, problem.id,
        choices.size());
  const std::size_t right = right_choice(task, choices, problem.reference, problem.id);
  std::vector<std::size_t> order(choices.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (task.shuffle)
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  for (std::size_t i = 0; i < order.size(); ++i) {
    problem.choices.push_back(choices[order[i]]);
    if (order[i] == right) problem.reference = letter(i);
  }
}

Json read_document_texts(const Task& task, const Problem& problem, const Json& variables) {
  Json texts = Json::array();
  std::istringstream paths(render(task, "document_paths", task.document_paths, variables));
  for (std::string path; std::getline(paths, path);) {
    const fs::path file = fs::path(task.documents) / path;
    check(fs::exists(file), "task", "{}: problem {}: {}: there is no such document{}", task.name,
          problem.id, file.string(), needs_of(task));
    texts.push_back({{"path", path}, {"text", read_text(file)}});
  }
  return texts;
}

}  // namespace

std::vector<Problem> read_problems(const Task& task, std::uint64_t seed) {
  check(task.document_paths.empty() || !task.documents.empty(), "task",
        "{}: documents: no folder is given; say --set {}.documents=FOLDER{}", task.name, task.name,
        needs_of(task));
  std::vector<Problem> problems;
  for (Json& record : read_records(task)) {
    Problem problem;
    problem.id =
        task.id.empty() ? std::to_string(problems.size()) : text_of(field(task, record, task.id));
    problem.fields = std::move(record);
    if (!task.answer.empty())
      problem.reference = render(task, "answer", task.answer, variables_of(problem));
    if (!task.choices.empty()) {
      Random random{random_bits(seed, problems.size())};
      read_choices(task, problem, random);
    }
    problem.steps = {Json()};
    if (!task.steps.empty()) {
      const Json& steps = field(task, problem.fields, task.steps);
      check(steps.is_array() && !steps.empty(), "task", "{}: problem {}: {}: expected a list",
            task.name, problem.id, task.steps);
      problem.steps.assign(steps.begin(), steps.end());
    }
    problems.push_back(std::move(problem));
  }
  return problems;
}

Json messages_of(const Task& task, const Problem& problem, std::size_t step,
                 const std::vector<std::string>& earlier) {
  Json variables = variables_of(problem);
  variables["step"] = problem.steps[step];
  variables["earlier"] = earlier;
  if (!task.document_paths.empty())
    variables["documents"] = read_document_texts(task, problem, variables);
  Json messages = Json::array();
  if (!task.system.empty())
    messages.push_back(
        {{"role", "system"}, {"content", render(task, "system", task.system, variables)}});
  const std::string prompt = render(task, "prompt", task.prompt, variables);
  check(!prompt.empty(), "task", "{}: problem {}: the prompt is empty", task.name, problem.id);
  messages.push_back({{"role", "user"}, {"content", prompt}});
  return messages;
}

std::string judge_message(const Task& task, const Problem& problem, const std::string& response) {
  Json variables = variables_of(problem);
  variables["reference"] = problem.reference;
  variables["response"] = response;
  return render(task, "judge_prompt", task.judge_prompt, variables);
}

}  // namespace qad::evaluate
