// A benchmark as a YAML file: which problems, how each becomes a prompt, what of a response is the
// answer and how it is scored. for_each_key() is the table of a file's keys (core/yaml_keys.h);
// tasks/ has the built-in ones.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "core/file.h"
#include "core/json.h"

namespace qad::evaluate {

struct Task {
  std::string name;  // of its file
  std::string title, description, source;
  std::string data, documents, document_paths, tests, needs;
  std::string id, answer, prompt, system;
  std::string chat = "auto";
  std::vector<std::string> choices;
  bool shuffle = false;
  std::string steps;
  std::string extract = "response", pattern, score = "exact";
  std::string judge_prompt, judge_url, judge_model;
  std::int64_t problems = 0, samples = 1;
  double temperature = 0, top_p = 1, min_p = 0;
  std::int64_t top_k = 0, max_tokens = 1024;
  std::vector<std::string> stop;
  double timeout = 0;
  std::string python = "python3";
};

template <class T, class F>
requires std::is_same_v<std::remove_const_t<T>, Task>
void for_each_key(T& t, F&& f) {
  f("title", t.title, "", "name in tables");
  f("description", t.description, "", "what it asks");
  f("source", t.source, "", "where the problems come from, and their licence");
  f("data", t.data, "", "problems: .jsonl, .json (a list) or .csv");
  f("documents", t.documents, "", "folder of texts that prompts quote");
  f("document_paths", t.document_paths, "", "Jinja: those of a problem, one path a line");
  f("tests", t.tests, "", "file or folder of tests or targets that programs are held to");
  f("needs", t.needs, "", "what the user has to bring, said where it is missing");
  f("id", t.id, "", "field that names a problem; else its number");
  f("prompt", t.prompt, "", "Jinja over a problem's fields: the user's message");
  f("system", t.system, "", "Jinja: the system's message");
  f("chat", t.chat, "auto|yes|no", "by the chat template, where there is one; always; never");
  f("answer", t.answer, "", "Jinja: the reference");
  f("choices", t.choices, "", "fields with the options, or one field with a list of them");
  f("shuffle", t.shuffle, "", "options in an order drawn by the seed");
  f("steps", t.steps, "", "field with parts that are answered one after another");
  f("extract", t.extract, "response|final|boxed|number|letter|regex", "the answer in a response");
  f("pattern", t.pattern, "", "for extract: regex; its first group is the answer");
  f("score", t.score, "exact|math|choice|instructions|humaneval|mbpp|livecodebench|scicode|judge",
    "how an answer is judged");
  f("judge_prompt", t.judge_prompt, "", "Jinja over the fields, reference and response");
  f("judge_url", t.judge_url, "", "OpenAI-compatible endpoint, as http://host:port/v1");
  f("judge_model", t.judge_model, "", "its model");
  f("problems", t.problems, "", "the first so many; 0: all");
  f("samples", t.samples, ">0", "responses a problem");
  f("temperature", t.temperature, "", "0: greedy");
  f("top_p", t.top_p, ">0", "");
  f("top_k", t.top_k, "", "0: all");
  f("min_p", t.min_p, "", "");
  f("max_tokens", t.max_tokens, ">0", "of a response");
  f("stop", t.stop, "", "texts that end a response");
  f("timeout", t.timeout, "",
    "CPU seconds a program may run; 0: as long as its benchmark gives it");
  f("python", t.python, "", "interpreter of programs, with the packages they need");
}

// Throw Error "[task] FILE:LINE: ..." for syntax, unknown keys and values, and what is missing.
// Paths in a file are relative to it.
Task parse_task(const std::string& yaml, const fs::path& file);

// The task called `name`: a path that ends in .yaml, or the name of a file in `folder`. Error for
// others, with the nearest name.
Task load_task(const std::string& name, const fs::path& folder);
std::vector<std::string> task_names(const fs::path& folder);

// Changes keys of those among `tasks` that a line "NAME.KEY=VALUE" means; NAME may be *. Error for
// a NAME that is not among them.
void set_task_key(std::vector<Task>& tasks, const std::string& assignment);

// The same from a file of settings, {NAME: {KEY: VALUE}}: a model family's protocol. Names that are
// not among `tasks` are passed over.
void apply_protocol(std::vector<Task>& tasks, const fs::path& file);

void validate(const Task& task);
Json to_json(const Task& task);                            // its keys; the name is not among them
Task task_of(const Json& json, const std::string& where);  // "name" beside the keys of to_json

struct Problem {
  std::string id;
  Json fields;                       // of its record
  std::vector<std::string> choices;  // in the order in which they are shown
  std::string reference;             // of multiple choice: the letter
  std::vector<Json> steps;           // of a problem that has none: one, null
};

// The task's problems. The order of choices is drawn from `seed` and the problem's number. Error
// for files that are missing (with the task's `needs`), records that are no objects, and a
// reference that is none of the choices.
std::vector<Problem> read_problems(const Task& task, std::uint64_t seed);

// The messages that ask for step `step`, whose predecessors were answered by `earlier`: [{role,
// content}, ...]. A template sees the fields by name, all of them as `problem`, and `choices` (of
// {letter, text}), `step`, `earlier` and `documents` (of {path, text}).
Json messages_of(const Task& task, const Problem& problem, std::size_t step,
                 const std::vector<std::string>& earlier);

// What a judge is asked of a response: judge_prompt, which also sees `reference` and `response`.
std::string judge_message(const Task& task, const Problem& problem, const std::string& response);

}  // namespace qad::evaluate
