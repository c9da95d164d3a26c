// RFC 4180's own examples, and what breaks its rules.
#include "core/csv.h"

#include <gmock/gmock.h>

#include "core/error.h"

namespace qad {
namespace {

using Rows = std::vector<std::vector<std::string>>;

TEST(Csv, ReadsRfc4180) {
  EXPECT_EQ(parse_csv("aaa,bbb,ccc\r\nzzz,yyy,xxx\r\n", "t"),
            (Rows{{"aaa", "bbb", "ccc"}, {"zzz", "yyy", "xxx"}}));
  EXPECT_EQ(parse_csv("aaa,bbb,ccc\r\nzzz,yyy,xxx", "t"),
            (Rows{{"aaa", "bbb", "ccc"}, {"zzz", "yyy", "xxx"}}));
  EXPECT_EQ(parse_csv("\"aaa\",\"b\r\nbb\",\"ccc\"\nzzz,yyy,xxx", "t"),
            (Rows{{"aaa", "b\r\nbb", "ccc"}, {"zzz", "yyy", "xxx"}}));
  EXPECT_EQ(parse_csv("\"aaa\",\"b\"\"bb\",\"c,c\"", "t"), (Rows{{"aaa", "b\"bb", "c,c"}}));
  EXPECT_EQ(parse_csv("a,\n,b\n\n", "t"), (Rows{{"a", ""}, {"", "b"}}));
  EXPECT_EQ(parse_csv("a,b\n1,", "t"), (Rows{{"a", "b"}, {"1", ""}}));
  EXPECT_EQ(parse_csv("\xEF\xBB\xBFid\n7", "t"), (Rows{{"id"}, {"7"}}));
  EXPECT_EQ(parse_csv("a\n\"\"\n", "t"), (Rows{{"a"}, {""}}));
  EXPECT_TRUE(parse_csv("", "t").empty());
}

TEST(Csv, NamesTheLineOfAMistake) {
  const auto said = [](const char* text) {
    try {
      parse_csv(text, "t.csv");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_THAT(said("a,b\n1\n"), testing::HasSubstr("t.csv: line 2: expected 2 fields"));
  EXPECT_THAT(said("a\n\"b\nc"), testing::HasSubstr("line 2: a quote does not end"));
  EXPECT_THAT(said("a\n\"b\"c"), testing::HasSubstr("line 2: expected a comma"));
}

}  // namespace
}  // namespace qad
