#include "core/file.h"

#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <set>
#include <vector>

#include "core/scratch.h"

namespace qad {
namespace {

using testing::HasSubstr;
using testing::UnorderedElementsAre;

class FileTest : public testing::Test {
 protected:
  fs::path at(const std::string& name) const { return folder_ / name; }
  std::set<std::string> names() const {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder_.path()))
      found.insert(entry.path().filename());
    return found;
  }

  const ScratchFolder folder_;
};

// Runs `f` in a child process and returns its wait status.
template <class F>
int in_child(F&& f) {
  const pid_t child = ::fork();
  if (child == 0) {
    f();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

// The child's files may have no more than `bytes` bytes: what a full disk looks like to write(2).
void limit_file_size(rlim_t bytes) {
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{bytes, bytes};
  ::setrlimit(RLIMIT_FSIZE, &limit);
}

constexpr const char* kMark = ".mark";

void save(const fs::path& path, const std::string& content) {
  AtomicFolder folder(path, kMark);
  write_file(folder.path() / kMark, content);
  folder.commit();
}

TEST_F(FileTest, MapsWhatWasWritten) {
  write_file(at("a"), std::string("x\0y", 3));
  const MappedFile file(at("a"));
  EXPECT_EQ(file.text(), std::string("x\0y", 3));
  write_file(at("empty"), "");
  EXPECT_EQ(MappedFile(at("empty")).bytes().size(), 0u);
  EXPECT_EQ(MappedFile().text(), "");
  EXPECT_THAT(names(), UnorderedElementsAre("a", "empty"));
}

TEST_F(FileTest, ReadsPastTheMap) {
  write_file(at("a"), "0123456789");
  const MappedFile file(at("a"));
  std::string out(4, ' ');
  const auto bytes = std::as_writable_bytes(std::span(out));
  file.read(3, bytes);
  EXPECT_EQ(out, "3456");
  file.read(6, bytes);
  EXPECT_EQ(out, "6789");
  EXPECT_THAT(error_of([&] { file.read(7, bytes); }), HasSubstr("a: 1 bytes at 10: the file ends"));
  EXPECT_THAT(error_of([&] { MappedFile().read(0, bytes); }), HasSubstr("the file ends"));
  fs::resize_file(at("a"), 5);  // touching the map there would be a bus error
  EXPECT_THAT(error_of([&] { file.read(3, bytes); }), HasSubstr("2 bytes at 5: the file ends"));
}

TEST_F(FileTest, OpeningNamesPathAndReason) {
  EXPECT_THAT(error_of([&] { MappedFile(at("none")); }), HasSubstr("none: No such file"));
  EXPECT_THAT(error_of([&] { MappedFile{folder_.path()}; }), HasSubstr("not a regular file"));
  ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { MappedFile(at("pipe")); }), HasSubstr("not a regular file"));
}

TEST_F(FileTest, AFileWithoutCommitVanishes) {
  write_file(at("a"), "old");
  {
    AtomicFile file(at("a"));
    file.write("new");
    EXPECT_EQ(read_text(at("a")), "old");
  }
  EXPECT_EQ(read_text(at("a")), "old");
  EXPECT_THAT(names(), UnorderedElementsAre("a"));
  EXPECT_THAT(error_of([&] { write_file(at("no/such"), "x"); }),
              HasSubstr("No such file or directory"));
}

TEST_F(FileTest, AFullDiskLeavesTheOldFile) {
  write_file(at("a"), "old");
  const int status = in_child([&] {
    limit_file_size(100);
    const std::string error = error_of([&] { write_file(at("a"), std::string(1000, 'x')); });
    ::_exit(error.find("File too large; nothing was left behind") == error.npos);
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read_text(at("a")), "old");
  EXPECT_THAT(names(), UnorderedElementsAre("a"));
}

TEST_F(FileTest, AFolderTakesItsNameWhole) {
  save(at("m"), "1");
  write_file(at("m/stale"), "x");
  save(at("m/"), "2");
  EXPECT_EQ(read_text(at("m/.mark")), "2");
  EXPECT_FALSE(fs::exists(at("m/stale")));
  EXPECT_THAT(names(), UnorderedElementsAre("m"));
  { AtomicFolder folder(at("m"), kMark); }
  { AtomicFolder folder(at("deep/er/m"), kMark); }
  EXPECT_EQ(read_text(at("m/.mark")), "2");
  EXPECT_THAT(names(), UnorderedElementsAre("deep", "m"));
}

TEST_F(FileTest, AFolderBehindALinkIsReplacedThere) {
  fs::create_directory(at("disk"));
  fs::create_directory_symlink(at("disk"), at("link"));
  save(at("link"), "1");
  EXPECT_TRUE(fs::is_symlink(at("link")));
  EXPECT_EQ(read_text(at("disk/.mark")), "1");
}

TEST_F(FileTest, RefusesToReplaceWhatIsNoResult) {
  fs::create_directory(at("home"));
  save(at("home"), "an empty folder may be replaced");
  fs::create_directory(at("other"));
  write_file(at("other/thesis.txt"), "x");
  EXPECT_THAT(error_of([&] { AtomicFolder folder(at("other"), kMark); }),
              HasSubstr("no .mark in it"));
  fs::create_directory(at("home/.git"));
  EXPECT_THAT(error_of([&] { AtomicFolder folder(at("home"), kMark); }),
              HasSubstr("holds a folder .git"));
  write_file(at("file"), "x");
  EXPECT_THAT(error_of([&] { AtomicFolder folder(at("file"), kMark); }), HasSubstr("in the way"));

  AtomicFolder late(at("late"), kMark);
  fs::create_directory(at("late"));
  write_file(at("late/thesis.txt"), "x");
  EXPECT_THAT(error_of([&] { late.commit(); }), HasSubstr("no .mark in it"));
  EXPECT_EQ(read_text(at("late/thesis.txt")), "x");
  EXPECT_EQ(read_text(at("other/thesis.txt")), "x");
}

TEST_F(FileTest, WhatCannotBecomeAFolderIsRefusedBeforeTheWork) {
  write_file(at("file"), "x");
  EXPECT_THAT(error_of([&] { check_replaceable(at("file/deep/m"), kMark); }),
              HasSubstr("file is not a folder"));
  EXPECT_THAT(error_of([&] { check_replaceable("/proc", kMark); }), HasSubstr("is a mount point"));
  fs::create_directories(at("odd/.mark"));
  EXPECT_THAT(error_of([&] { check_replaceable(at("odd"), kMark); }), HasSubstr("no .mark in it"));
  EXPECT_EQ(error_of([&] { check_replaceable(at("new/deep/m"), kMark); }), "");
  save(at("m"), "1");
  EXPECT_EQ(error_of([&] { check_replaceable(at("m"), kMark); }), "");
  EXPECT_THAT(names(), UnorderedElementsAre("file", "m", "odd"));
}

TEST_F(FileTest, AKilledSaveLeavesTheOldFolderAndIsSweptUpLater) {
  save(at("m"), "old");
  const int status = in_child([&] {
    AtomicFolder folder(at("m"), kMark);
    write_file(folder.path() / kMark, "new");
    AtomicFile half(folder.path() / "model.safetensors");
    half.write("half");
    ::kill(::getpid(), SIGKILL);
  });
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(read_text(at("m/.mark")), "old");
  EXPECT_EQ(names().size(), 2u) << "the killed process's partial folder is what this test is about";

  save(at("m"), "newer");
  EXPECT_EQ(read_text(at("m/.mark")), "newer");
  EXPECT_THAT(names(), UnorderedElementsAre("m"));
}

TEST_F(FileTest, ALiveProcessKeepsItsPartialFolder) {
  AtomicFolder mine(at("m"), kMark);
  write_file(mine.path() / kMark, "mine");
  EXPECT_EQ(in_child([&] { save(at("m"), "theirs"); }), 0);
  EXPECT_EQ(read_text(at("m/.mark")), "theirs");
  mine.commit();
  EXPECT_EQ(read_text(at("m/.mark")), "mine");
  EXPECT_THAT(names(), UnorderedElementsAre("m"));
}

// Each save looks for leftovers while others have just made, or are about to rename, their own.
TEST_F(FileTest, ProcessesThatWriteOneNameLeaveEachOtherAlone) {
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    children.push_back(::fork());
    if (children.back() != 0) continue;
    const std::string error = error_of([&] {
      for (int n = 0; n < 100; ++n) write_file(at("a"), "x");
      for (int n = 0; n < 100; ++n) AtomicFolder(at("m"), kMark);
    });
    ::_exit(error.empty() ? 0 : 1);
  }
  for (const pid_t child : children) {
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_THAT(names(), UnorderedElementsAre("a"));
}

}  // namespace
}  // namespace qad
