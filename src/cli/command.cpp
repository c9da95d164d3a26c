// Options as CLI11 takes them.
#include "cli/command.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>

namespace qad::cli {

Command::Command(CLI::App& app, const std::string& name, const std::string& help)
    : app_(app.add_subcommand(name, help)), group_("Options") {}

void Command::required(const std::string& names, std::string& value, const std::string& help) {
  app_->add_option(names, value, help)->required()->group(group_);
}

void Command::words(const std::string& name, std::vector<std::string>& values,
                    const std::string& help) {
  app_->add_option(name, values, help)->required();
}

void Command::text(const std::string& names, std::string& value, const std::string& help) {
  CLI::Option* option = app_->add_option(names, value, help)->group(group_);
  if (!value.empty()) option->capture_default_str();
}

void Command::optional(const std::string& names, std::optional<std::string>& value,
                       const std::string& help) {
  app_->add_option_function<std::string>(
          names, [&value](const std::string& given) { value = given; }, help)
      ->take_last()
      ->group(group_);
}

void Command::repeated(const std::string& names, std::vector<std::string>& values,
                       const std::string& help) {
  // One value each time: "--stop END model" must not take the model, too.
  app_->add_option(names, values, help)->take_all()->allow_extra_args(false)->group(group_);
}

void Command::choice(const std::string& names, std::string& value,
                     const std::vector<std::string>& words, const std::string& help) {
  app_->add_option(names, value, help)
      ->check(CLI::IsMember(words))
      ->capture_default_str()
      ->group(group_);
}

void Command::flag(const std::string& names, bool& value, const std::string& help) {
  app_->add_flag(names, value, help)->group(group_);
}

template <class T>
void Command::number(const std::string& names, T& value, const std::string& help, T least, T most) {
  CLI::Option* option = app_->add_option(names, value, help)->capture_default_str()->group(group_);
  if (most < std::numeric_limits<T>::max())
    option->check(CLI::Range(least, most));
  else
    option->check(CLI::Validator(
        [least](std::string& given) {
          T value{};
          return CLI::detail::lexical_cast(given, value) && value >= least
                     ? std::string()
                     : fmt::format("expected a number of at least {}, found {}", least, given);
        },
        least == 0 ? "NONNEGATIVE" : fmt::format(">= {}", least)));
}
template void Command::number(const std::string&, std::int64_t&, const std::string&, std::int64_t,
                              std::int64_t);
template void Command::number(const std::string&, std::uint64_t&, const std::string&, std::uint64_t,
                              std::uint64_t);
template void Command::number(const std::string&, double&, const std::string&, double, double);

void Command::exclude(const std::string& one, const std::string& other) {
  app_->get_option(one)->excludes(app_->get_option(other));
}

void Command::group(const std::string& title) {
  group_ = title;
}

void Command::run(std::function<int()> action) {
  app_->callback([action = std::move(action)] {
    if (const int code = action(); code != 0) throw CLI::RuntimeError(code);
  });
}

}  // namespace qad::cli
