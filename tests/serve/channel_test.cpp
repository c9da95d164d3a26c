// Pieces come out in their order, errors after them, and who does not take them is given up.
#include "serve/channel.h"

#include <gmock/gmock.h>

#include <thread>

namespace qad::serve {
namespace {

using std::chrono::milliseconds;

Piece piece(std::size_t choice, const std::string& text, bool last = false) {
  Piece p;
  p.choice = choice;
  p.text = text;
  p.tokens = 1;
  if (last) p.finish = generate::Finish::stop;
  return p;
}

TEST(Channel, GivesPiecesInTheirOrder) {
  Channel channel(2, 1000);
  std::string got;
  std::thread writer([&] {
    for (int i = 0; i < 500; ++i)
      EXPECT_TRUE(channel.put(piece(static_cast<std::size_t>(i % 2), i % 2 == 0 ? "a" : "b")));
    EXPECT_TRUE(channel.put(piece(0, "A", true)));
    EXPECT_TRUE(channel.put(piece(1, "B", true)));
  });
  while (!channel.over())
    for (const Piece& p : channel.take(milliseconds(10))) got += p.text;
  writer.join();
  std::string expected;
  for (int i = 0; i < 250; ++i) expected += "ab";
  EXPECT_EQ(got, expected + "AB");
}

TEST(Channel, ClosesWhenTooMuchWaits) {
  Channel channel(1, 3);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(channel.put(piece(0, "a")));
  EXPECT_EQ(channel.take(milliseconds(0)).size(), 3);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(channel.put(piece(0, "a")));
  EXPECT_FALSE(channel.closed());
  EXPECT_FALSE(channel.put(piece(0, "a")));
  EXPECT_TRUE(channel.closed());
  EXPECT_TRUE(channel.take(milliseconds(0)).empty());
  EXPECT_FALSE(channel.put(piece(0, "a")));
}

TEST(Channel, TellsAnErrorAfterWhatCameBefore) {
  Channel channel(1, 10);
  channel.put(piece(0, "a"));
  channel.fail(ApiError(500, "no"));
  EXPECT_FALSE(channel.put(piece(0, "b")));
  EXPECT_EQ(channel.take(milliseconds(0)).size(), 1);
  EXPECT_FALSE(channel.over());
  EXPECT_THROW(channel.take(milliseconds(0)), ApiError);
  Channel ended(1, 10);  // an end that was told stands
  ended.put(piece(0, "a", true));
  ended.fail(ApiError(500, "no"));
  EXPECT_EQ(ended.take(milliseconds(0)).size(), 1);
  EXPECT_TRUE(ended.over());
}

}  // namespace
}  // namespace qad::serve
