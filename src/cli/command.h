// How a subcommand declares its options. A narrow face of CLI11, whose header costs every file that
// includes it five seconds to compile: only command.cpp and run.cpp do.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace qad::cli {

// NAMES are CLI11's: "model" for a positional, "-o,--output" for an option. A variable must outlive
// parsing (hold it where the function given to run() does); what it holds before is the default,
// shown in the help.
class Command {
 public:
  Command(CLI::App& app, const std::string& name, const std::string& help);

  void required(const std::string& names, std::string& value, const std::string& help);
  void words(const std::string& name, std::vector<std::string>& values,
             const std::string& help);  // positional, one at least
  void text(const std::string& names, std::string& value, const std::string& help);
  // Empty unless given; given twice, the last counts.
  void optional(const std::string& names, std::optional<std::string>& value,
                const std::string& help);
  void repeated(const std::string& names, std::vector<std::string>& values,
                const std::string& help);
  void choice(const std::string& names, std::string& value, const std::vector<std::string>& words,
              const std::string& help);
  void flag(const std::string& names, bool& value, const std::string& help);
  // T is std::int64_t, std::uint64_t or double.
  template <class T>
  void number(const std::string& names, T& value, const std::string& help, T least = 0,
              T most = std::numeric_limits<T>::max());

  void exclude(const std::string& one, const std::string& other);  // never both
  void group(const std::string& title);                            // of the options that follow
  // What the command does, once its options are read; returns the exit code.
  void run(std::function<int()> action);

 private:
  CLI::App* app_;
  std::string group_;
};

}  // namespace qad::cli
