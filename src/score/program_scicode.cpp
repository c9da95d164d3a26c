// SciCode: a step's code after that of the steps before it, against numbers from an HDF5 file. That
// file is read by Python, which the tests need anyway.
#include <string>
#include <utility>

#include "core/error.h"
#include "score/program.h"
#include "score/program_run.h"

namespace qad::score {
namespace {

// Test K of step S has its target in the group S/testK: one member is the target itself, several
// are a tuple. Datasets are values; a group "list" holds a list, "sparse_matrix" a SciPy matrix,
// any other is a dictionary, whose keys are numbers where they look like some.
constexpr const char* kJudge = R"(import json, os, sys
def lacks(what):
    print(what, file=sys.stderr, flush=True)
    os._exit({lacks})
job = json.load(sys.stdin)
try:
    import h5py
    import numpy
    import scipy.sparse
except ImportError as error:
    lacks(f"SciCode needs a Python with numpy, scipy, sympy and h5py: {{error}}")
def value_of(item):
    value = item[()]
    return value.decode() if isinstance(value, bytes) else value
def key_of(name):
    try:
        return float(name)
    except ValueError:
        return name
def matrix_of(group):
    parts = {{name: group[name][()] for name in group}}
    shape = tuple(parts["shape"])
    if "row" in parts:
        return scipy.sparse.coo_matrix((parts["data"], (parts["row"], parts["col"])), shape=shape)
    compressed = (parts["data"], parts["indices"], parts["indptr"])
    if "blocksize" in parts:
        return scipy.sparse.bsr_matrix(compressed, shape=shape, blocksize=tuple(parts["blocksize"]))
    return scipy.sparse.csr_matrix(compressed, shape=shape)
def object_of(item):
    if isinstance(item, h5py.Dataset):
        return value_of(item)
    if "list" in item:
        return [value_of(member) for member in item["list"].values()]
    if "sparse_matrix" in item:
        return matrix_of(item["sparse_matrix"])
    members = {{name: object_of(member) for name, member in item.items()}}
    return {{key_of(name) if isinstance(item[name], h5py.Dataset) and not isinstance(value, str)
             else name: value for name, value in members.items()}}
targets = []
try:
    with h5py.File(job["targets"], "r") as file:
        for i in range(len(job["tests"])):
            members = [object_of(item) for item in file[f"{{job['step']}}/test{{i + 1}}"].values()]
            targets.append(members[0] if len(members) == 1 else tuple(members))
except (OSError, KeyError) as error:
    lacks(f"{{job['targets']}}: no targets of step {{job['step']}}: {{error}}")
space = {{"__name__": "__main__"}}
try:
    exec(job["dependencies"], space)
except ImportError as error:
    lacks(f"step {{job['step']}} needs more of this Python: {{error}}")
with open("solution.py", encoding="utf-8") as file:
    source = file.read()
exec(compile(source, "solution.py", "exec"), space)
for target, test in zip(targets, job["tests"]):
    space["target"] = target
    exec(test, space)
os._exit({passed})
)";

// What the tests import under this name: numpy.allclose through tuples, lists and dictionaries.
constexpr const char* kCompare = R"(import numpy
import scipy.sparse

def plain(value):
    if scipy.sparse.issparse(value):
        return value.toarray()
    if type(value).__module__.startswith("sympy") and getattr(value, "is_Symbol", False):
        return str(value)
    return value

def close(a, b, **tolerance):
    a, b = plain(a), plain(b)
    if isinstance(a, dict):
        return are_dicts_close(a, b, **tolerance)
    if isinstance(a, (str, bool)):
        return bool(a == b)
    try:
        return bool(numpy.allclose(a, b, **tolerance))
    except ValueError:
        return bool(a == b)

def are_dicts_close(a, b, atol=1e-8, rtol=1e-5):
    a = {plain(key): value for key, value in a.items()}
    b = {plain(key): value for key, value in b.items()}
    return a.keys() == b.keys() and all(close(a[key], b[key], atol=atol, rtol=rtol) for key in a)

def are_csc_matrix_close(a, b):
    return close(a, b)

def cmp_tuple_or_list(a, b):
    return len(a) == len(b) and all(close(x, y) for x, y in zip(a, b))
)";

}  // namespace

Json scicode_step(const Json& problem, std::size_t index, std::span<const std::string> responses) {
  const auto steps = problem.find("sub_steps");
  check(steps != problem.end() && steps->is_array() && index < steps->size() &&
            responses.size() == index,
        "scicode_step", "expected \"sub_steps\" to have step {} and the responses to all before it",
        index + 1);
  const Json& step = (*steps)[index];
  std::string before;
  for (const std::string& response : responses) before += extract_code(response) + "\n";
  check(step.contains("test_cases") && step["test_cases"].is_array(), "scicode_step",
        "expected step {} to have test_cases", index + 1);
  return {{"step_number", text_of(step, "step_number")},
          {"required_dependencies", text_of(problem, "required_dependencies")},
          {"code_before", before},
          {"test_cases", step["test_cases"]}};
}

ProgramVerdict judge_scicode(const Json& problem, std::string_view response,
                             const ProgramOptions& options) {
  check(!options.scicode_targets.empty(), "judge_program",
        "SciCode needs its numeric targets, the file test_data.h5");
  const Json job = {{"step", text_of(problem, "step_number")},
                    {"dependencies", text_of(problem, "required_dependencies")},
                    {"tests", problem.value("test_cases", Json::array())},
                    {"targets", options.scicode_targets.string()}};
  check(!job["tests"].empty(), "judge_program",
        "step {} has no test_cases: its authors give the code and score the other steps",
        text_of(problem, "step_number"));
  const std::string code =
      fmt::format("{}{}\n", text_of(problem, "code_before"), extract_code(response));
  return verdict_of(
      run_python(fmt::format(kJudge, fmt::arg("lacks", kLacks), fmt::arg("passed", kPassed)),
                 {{"solution.py", code},
                  {"scicode/__init__.py", ""},
                  {"scicode/compare/__init__.py", ""},
                  {"scicode/compare/cmp.py", kCompare}},
                 job.dump(), options, options.scicode_targets));
}

}  // namespace qad::score
