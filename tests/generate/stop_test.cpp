// Stop strings against their definition on the whole text, however it is cut.
#include "generate/stop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/random.h"

namespace qad::generate {
namespace {

using Strings = std::vector<std::string>;

// Everything given out for text in these pieces.
std::string given(const Strings& stops, const Strings& pieces) {
  StopStrings stop(stops);
  std::string all;
  for (const std::string& piece : pieces) all += stop.next(piece);
  return all + stop.rest();
}

TEST(StopStrings, EndTheTextBeforeThem) {
  EXPECT_EQ(given({"END"}, {"text END more"}), "text ");
  EXPECT_EQ(given({"END"}, {"text E", "N", "D"}), "text ");
  EXPECT_EQ(given({"END"}, {"text E", "N"}), "text EN");  // it never came
  EXPECT_EQ(given({"END"}, {"EENEND"}), "EEN");
  EXPECT_EQ(given({"aab"}, {"aa", "a", "b"}), "a");  // overlaps itself
  EXPECT_EQ(given({}, {"a", "b"}), "ab");
  EXPECT_EQ(given({"b"}, {"a", "", "b"}), "a");
}

TEST(StopStrings, HoldNoMoreThanATailThatMayBecomeOne) {
  StopStrings stop({"\n\nUser:"});
  EXPECT_EQ(stop.next("Hi.\n"), "Hi.");
  EXPECT_EQ(stop.next("\nUs"), "");
  EXPECT_EQ(stop.next("ual\n"), "\n\nUsual");
  EXPECT_FALSE(stop.found());
  EXPECT_EQ(stop.next("\nUser: x"), "");
  EXPECT_EQ(stop.found(), 0u);
  EXPECT_EQ(stop.next("more"), "");
  EXPECT_EQ(stop.rest(), "");
}

TEST(StopStrings, TheFirstToBeCompleteEndsIt) {
  EXPECT_EQ(given({"abc", "ab"}, {"xabc"}), "x");  // ab is complete first
  StopStrings prefix({"abc", "ab"});
  EXPECT_EQ(prefix.next("xabc"), "x");
  EXPECT_EQ(prefix.found(), 1u);
  EXPECT_EQ(given({"abcd", "bc"}, {"abcd"}), "a");
  EXPECT_EQ(given({"c", "abc"}, {"xab", "c"}), "x");  // both at once: the longest
}

TEST(StopStrings, RefuseTheEmptyString) {
  EXPECT_THROW(StopStrings({"a", ""}), Error);
}

// Random texts of two letters, which overlap as much as text can.
TEST(StopStrings, FollowTheDefinitionHoweverTextIsCut) {
  Random random{7};
  const auto letters = [&](std::size_t n) {
    std::string s;
    while (s.size() < n) s += random.below(2) ? 'a' : 'b';
    return s;
  };
  for (int round = 0; round < 3000; ++round) {
    Strings stops;
    for (auto n = 1 + random.below(3); n > 0; --n) stops.push_back(letters(2 + random.below(5)));
    const std::string text = letters(random.below(24));
    std::string want = text;
    for (std::size_t end = 1; end <= text.size() && want == text; ++end) {
      std::size_t longest = 0;
      for (const std::string& s : stops)
        if (text.substr(0, end).ends_with(s)) longest = std::max(longest, s.size());
      if (longest > 0) want = text.substr(0, end - longest);
    }
    StopStrings stop(stops);
    std::string all;
    for (std::size_t at = 0; at < text.size() && !stop.found();) {
      const auto n = std::min<std::size_t>(1 + random.below(4), text.size() - at);
      all += stop.next(text.substr(at, n));
      at += n;
      if (stop.found()) break;
      // What is held is the longest tail that begins a stop string.
      const std::string so_far = text.substr(0, at);
      std::size_t hold = 0;
      for (const std::string& s : stops)
        for (std::size_t k = 1; k < s.size(); ++k)
          if (so_far.ends_with(s.substr(0, k))) hold = std::max(hold, k);
      EXPECT_EQ(all, so_far.substr(0, at - hold));
    }
    EXPECT_EQ(all + stop.rest(), want);
    EXPECT_EQ(stop.found().has_value(), want != text);
  }
}

}  // namespace
}  // namespace qad::generate
