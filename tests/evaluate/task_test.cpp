// Tasks: files, settings, problems, choices, prompts; and results that read back.
#include "evaluate/task.h"

#include <gmock/gmock.h>

#include <set>

#include "core/error.h"
#include "core/scratch.h"
#include "evaluate/results.h"

namespace qad::evaluate {
namespace {

using testing::HasSubstr;

constexpr const char* kChoices = R"(
title: Animals
data: animals.csv
id: name
choices: [right, wrong 1, wrong 2]
shuffle: true
answer: "{{ problem.right }}"
prompt: |
  {{ question }}
  {% for c in choices %}
  {{ c.letter }}: {{ c.text }}
  {% endfor %}
extract: letter
score: choice
)";
constexpr const char* kAnimals =
    "name,question,right,wrong 1,wrong 2\n1,Barks?,dog,cat,cow\n2,Moos?,cow,\"a, cat\",dog\n";

TEST(Task, ChoicesAreShuffledBySeedAndTheReferenceFollows) {
  const ScratchFolder scratch;
  write_file(scratch / "animals.csv", kAnimals);
  const Task task = parse_task(kChoices, scratch / "animals.yaml");
  EXPECT_EQ(task.name, "animals");
  std::set<std::string> letters;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto problems = read_problems(task, seed);
    ASSERT_EQ(problems.size(), 2u);
    EXPECT_EQ(problems[0].id, "1");
    const Problem& p = problems[1];
    EXPECT_THAT(p.choices, testing::UnorderedElementsAre("cow", "a, cat", "dog"));
    EXPECT_EQ(p.choices[static_cast<std::size_t>(p.reference[0] - 'A')], "cow");
    letters.insert(p.reference);
    const std::string prompt = messages_of(task, p, 0, {})[0]["content"];
    EXPECT_THAT(prompt, HasSubstr("Moos?"));
    EXPECT_THAT(prompt, HasSubstr(p.reference + ": cow"));
    const auto again = read_problems(task, seed);
    EXPECT_EQ(again[1].choices, p.choices);
  }
  EXPECT_EQ(letters, (std::set<std::string>{"A", "B", "C"}));
}

TEST(Task, AnAnswerMayBeALetterANumberOrTheText) {
  const ScratchFolder scratch;
  write_file(scratch / "d.jsonl",
             "{\"q\":\"?\",\"options\":[\"x\",\"y\"],\"a\":\"B\"}\n"
             "{\"q\":\"?\",\"options\":[\"x\",\"y\"],\"a\":1}\n"
             "{\"q\":\"?\",\"options\":[\"x\",\"y\"],\"a\":\"y\"}\n");
  const std::string yaml =
      "data: d.jsonl\nchoices: options\nanswer: '{{ problem.a }}'\nprompt: '{{ q }}'\nscore: "
      "choice\n";
  for (const Problem& p : read_problems(parse_task(yaml, scratch / "t.yaml"), 0))
    EXPECT_EQ(p.reference, "B");
  write_file(scratch / "d.jsonl", "{\"q\":\"?\",\"options\":[\"x\",\"y\"],\"a\":\"z\"}\n");
  EXPECT_THAT(error_of([&] { read_problems(parse_task(yaml, scratch / "t.yaml"), 0); }),
              HasSubstr("answer \"z\""));
}

TEST(Task, StepsSeeWhatWasAnsweredBefore) {
  const ScratchFolder scratch;
  write_file(scratch / "d.json", R"([{"parts": [{"ask": "one"}, {"ask": "two"}]}])");
  const Task task = parse_task(
      "data: d.json\nsteps: parts\nprompt: '{{ earlier | join(\"+\") }} {{ step.ask }}'\nscore: "
      "scicode\n",
      scratch / "t.yaml");
  const auto problems = read_problems(task, 0);
  ASSERT_EQ(problems[0].steps.size(), 2u);
  EXPECT_EQ(messages_of(task, problems[0], 1, {"first"})[0]["content"], "first two");
}

TEST(Task, DocumentsAreReadFromTheirFolder) {
  const ScratchFolder scratch;
  fs::create_directories(scratch / "texts");
  write_file(scratch / "texts" / "a.txt", "alpha");
  write_file(scratch / "d.jsonl", "{\"files\":\"a.txt\",\"answer\":\"x\"}\n");
  const std::string yaml =
      "data: d.jsonl\ndocument_paths: '{{ files }}'\nneeds: some texts\n"
      "prompt: '{% for d in documents %}{{ d.path }}={{ d.text }}{% endfor %}'\n"
      "answer: '{{ problem.answer }}'\n";
  Task task = parse_task(yaml, scratch / "t.yaml");
  EXPECT_THAT(error_of([&] { read_problems(task, 0); }), HasSubstr("some texts"));
  task.documents = (scratch / "texts").string();
  const auto problems = read_problems(task, 0);
  EXPECT_EQ(messages_of(task, problems[0], 0, {})[0]["content"], "a.txt=alpha");
}

TEST(Task, MistakesAreNamed) {
  const auto parse = [](const std::string& yaml) {
    return error_of([&] { validate(parse_task(yaml, "t.yaml")); });
  };
  EXPECT_EQ(parse("prompt: x\nanswer: y\n"), "");
  EXPECT_THAT(parse("promt: x\n"), HasSubstr("t.yaml:1: unknown key \"promt\"; did you mean"));
  EXPECT_THAT(parse("prompt: x\nscore: maths\n"), HasSubstr("did you mean \"math\"?"));
  EXPECT_THAT(parse("prompt: x\nsamples: 0\n"), HasSubstr("samples"));
  EXPECT_THAT(parse("answer: x\n"), HasSubstr("prompt: is missing"));
  EXPECT_THAT(parse("prompt: x\n"), HasSubstr("answer"));
  EXPECT_THAT(parse("prompt: x\nanswer: y\nextract: regex\n"), HasSubstr("pattern"));
  EXPECT_THAT(parse("prompt: x\nanswer: y\nscore: choice\n"), HasSubstr("choices"));
}

TEST(Task, SettingsReachTheTasksThatTheyName) {
  std::vector<Task> tasks = {parse_task("prompt: x\nanswer: y\n", "one.yaml"),
                             parse_task("prompt: x\nanswer: y\n", "two.yaml")};
  set_task_key(tasks, "*.samples=3");
  set_task_key(tasks, "two.temperature=0.5");
  EXPECT_EQ(tasks[0].samples, 3);
  EXPECT_EQ(tasks[0].temperature, 0);
  EXPECT_EQ(tasks[1].temperature, 0.5);
  EXPECT_THAT(error_of([&] { set_task_key(tasks, "three.samples=1"); }), HasSubstr("\"three\""));
  EXPECT_THAT(error_of([&] { set_task_key(tasks, "samples=1"); }), HasSubstr("TASK.KEY=VALUE"));

  const ScratchFolder scratch;
  write_file(scratch / "p.yaml", "'*': {top_p: 0.9}\none: {samples: 7}\nelsewhere: {samples: 2}\n");
  apply_protocol(tasks, scratch / "p.yaml");
  EXPECT_EQ(tasks[0].samples, 7);
  EXPECT_EQ(tasks[1].top_p, 0.9);
  write_file(scratch / "p.yaml", "elsewhere: {sample: 2}\n");
  EXPECT_THAT(error_of([&] { apply_protocol(tasks, scratch / "p.yaml"); }),
              HasSubstr("did you mean \"samples\"?"));
}

// The built-in tasks: each reads, names what it needs or asks all its problems, and its protocols
// name keys that exist.
TEST(Task, BuiltInTasksAskTheirProblems) {
  const std::map<std::string, std::size_t> sizes = {
      {"math500", 500},       {"aime24", 30},       {"aime25", 30},      {"gsm8k", 1319},
      {"ifeval", 541},        {"humaneval", 164},   {"mbpp", 500},       {"scicode", 65},
      {"arithmetic", 1000},   {"livecodebench", 0}, {"gpqa_diamond", 0}, {"aa_lcr", 100},
      {"multiple_choice", 0}, {"exact_match", 0}};
  const fs::path folder = fs::path(QAD_SOURCE_DIR) / "tasks";
  const auto names = task_names(folder);
  EXPECT_EQ(names.size(), sizes.size());
  for (const std::string& name : names) {
    Task task = load_task(name, folder);
    EXPECT_FALSE(task.description.empty()) << name;
    if (task.data.empty() || !task.document_paths.empty()) {
      EXPECT_FALSE(task.needs.empty()) << name;
      EXPECT_THAT(error_of([&] { read_problems(task, 0); }), HasSubstr(task.needs)) << name;
      continue;
    }
    const auto problems = read_problems(task, 0);
    EXPECT_EQ(problems.size(), sizes.at(name)) << name;
    for (const Problem& p : problems) {
      EXPECT_EQ(p.reference.empty(), task.answer.empty()) << name;
      messages_of(task, p, 0, {});
    }
  }
  std::vector<Task> none;
  for (const std::string& protocol : task_names(folder / "protocols"))
    EXPECT_NO_THROW(apply_protocol(none, folder / "protocols" / (protocol + ".yaml"))) << protocol;
}

TEST(Results, ReadBackAsTheyWere) {
  Results results{"m", "0123", "BF16", "2026-01-01T00:00:00Z", 7, {}};
  TaskResults task{
      parse_task("prompt: \"a\\u00e9 \\\"b\\\"\"\nanswer: y\nstop: [\"\\n\"]\n", "t.yaml"), {}, {}};
  task.problems = {{"p0", "prompt", "ref"}, {"p1", "prompt", "ref"}};
  for (std::int64_t p = 0; p < 2; ++p)
    for (std::int64_t s = 0; s < 2; ++s)
      task.responses.push_back({p,
                                s,
                                0,
                                "said",
                                "stop",
                                3,
                                "said",
                                "right",
                                {{"accuracy", {p == 0 || s == 0 ? 1.0 : 0.0, 1}}}});
  results.tasks.push_back(task);
  const Json json = to_json(results);
  EXPECT_EQ(json["tasks"][0]["scores"]["accuracy"]["mean"], 0.75);
  EXPECT_EQ(to_json(results_of(json, "test")), json);
  EXPECT_EQ(difference_of_protocol(results, results.tasks[0], results, results.tasks[0]), "");

  Results other = results;
  other.tasks[0].task.temperature = 0.5;
  EXPECT_THAT(difference_of_protocol(results, results.tasks[0], other, other.tasks[0]),
              HasSubstr("temperature"));
  other = results;
  other.seed = 8;
  EXPECT_THAT(difference_of_protocol(results, results.tasks[0], other, other.tasks[0]),
              HasSubstr("seeds"));
  EXPECT_THAT(error_of([] { results_of(Json::parse("{}"), "x.json"); }), HasSubstr("x.json"));
}

}  // namespace
}  // namespace qad::evaluate
