// Our renderings against those of Transformers' Jinja environment (tests/golden/chat_template.py).
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"
#include "core/json.h"

namespace qad::text {
namespace {

const fs::path kGolden = fs::path(QAD_SOURCE_DIR) / "tests/golden";

Json golden() {
  return read_json(kGolden / "chat_template.json");
}

// What `template` gives must equal golden `expected`: the text and the generated ranges, or an
// error.
void expect_same(const std::string& source, const Json& variables, const Json& expected) {
  Rendered got;
  try {
    got = ChatTemplate(source).render(variables);
  } catch (const Error& e) {
    EXPECT_FALSE(expected.contains("text")) << "raised: " << e.what();
    EXPECT_EQ(std::string(e.what()).rfind("[chat_template] line ", 0), 0u) << e.what();
    return;
  }
  ASSERT_TRUE(expected.contains("text")) << "rendered: " << got.text;
  EXPECT_EQ(got.text, expected["text"].get<std::string>());
  const auto ranges = expected.value("generated", Json::array());
  ASSERT_EQ(got.generated.size(), ranges.size());
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    EXPECT_EQ(got.generated[i].first, ranges[i][0].get<std::size_t>());
    EXPECT_EQ(got.generated[i].second, ranges[i][1].get<std::size_t>());
  }
}

std::string message_of(const std::string& source, const Json& variables = Json::object()) {
  try {
    return "no error: " + ChatTemplate(source).render(variables).text;
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(ChatTemplate, ConversationsRenderAsInTransformers) {
  const Json all = golden();
  ASSERT_GT(all["renderings"].size(), 180u);
  for (const Json& c : all["renderings"]) {
    SCOPED_TRACE(c["template"].get<std::string>() + " / " + c["chat"].get<std::string>() + " / " +
                 c["option"].dump());
    Json variables = all["options"][c["option"].get<std::size_t>()];
    variables["messages"] = all["chats"][c["chat"].get<std::string>()];
    variables.update(all["tokens"]);
    expect_same(
        read_text(kGolden / "chat_template" / (c["template"].get<std::string>() + ".jinja")),
        variables, c);
  }
}

TEST(ChatTemplate, SnippetsRenderAsInJinja2) {
  const Json all = golden();
  ASSERT_GT(all["snippets"].size(), 250u);
  for (const Json& c : all["snippets"]) {
    SCOPED_TRACE(c["template"].get<std::string>());
    expect_same(c["template"].get<std::string>(), all["data"], c);
  }
}

TEST(ChatTemplate, ErrorsNameTheLineAndTheConstruct) {
  EXPECT_EQ(message_of("a\n{% include 'x' %}"),
            "[chat_template] line 2: {% include %} is not supported");
  EXPECT_EQ(message_of("a\n\n{{ 'b' | nope }}"),
            "[chat_template] line 3: filter 'nope' is not supported");
  EXPECT_EQ(message_of("{{ raise_exception('No tools here') }}"),
            "[chat_template] line 1: the template refuses: No tools here");
  EXPECT_EQ(message_of("{{ messages[0].role.name.x }}", {{"messages", {{{"role", "user"}}}}}),
            "[chat_template] line 1: 'str object' has no attribute 'name' (looking for .x)");
  EXPECT_EQ(message_of("{{ 9223372036854775807 + 1 }}"),
            "[chat_template] line 1: integer result beyond 64 bits");
  EXPECT_EQ(message_of("{{ 'a'.zfill(3) }}"),
            "[chat_template] line 1: method 'zfill' of a string is not supported");
}

TEST(ChatTemplate, HostileTemplatesEndWithAnError) {
  const std::string deep_list =
      "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor "
      "%}";
  const std::string forever = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
  const std::string loops =
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
  const std::string doubling =
      "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% "
      "endfor %}";
  for (const std::string& source :
       {deep_list, forever, loops, doubling, std::string("{{ 'a' * 99999999999 }}"),
        std::string("{{ [0] * 99999999999 }}"),
        "{{ " + std::string(100000, '(') + "1" + std::string(100000, ')') + " }}",
        "{{ " + std::string(5000, '-') + "1 }}", [] {
          std::string chain = "{{ 1";
          for (int i = 0; i < 100000; ++i) chain += "+1";
          return chain + " }}";
        }()})
    EXPECT_EQ(message_of(source).rfind("[chat_template] line 1: ", 0), 0u) << source.substr(0, 80);
}

TEST(ChatTemplate, CyclesThroughNamespacesAndMacrosAreFreed) {  // leaks show under the sanitizers
  EXPECT_EQ(ChatTemplate("{% set ns = namespace() %}{% set ns.me = [ns] %}{% macro f() %}{{ ns is "
                         "defined }}{% endmacro %}"
                         "{% set ns.f = f %}{{ ns.f() }}")
                .render(Json::object())
                .text,
            "True");
}

TEST(ChatTemplate, VariablesMustBeAnObject) {
  EXPECT_THROW(ChatTemplate("x").render(Json::array()), Error);
}

}  // namespace
}  // namespace qad::text
