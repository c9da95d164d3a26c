// Each test is an attempt to do harm, and asserts that it came to nothing.
#include "score/sandbox.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <future>
#include <sstream>
#include <thread>

#include "core/scratch.h"

namespace qad::score {
namespace {

using End = SandboxResult::End;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsSubsetOf;
using testing::Not;

SandboxJob shell(const std::string& script) {
  return {.command = {"sh", "-c", script}};
}

SandboxJob python(const std::string& code) {
  return {.command = {"python3", "a.py"}, .files = {{"a.py", code}}};
}

std::string content(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// A word for a command line by which the host finds a process of the sandbox.
std::string marker() {
  return fmt::format("sandbox-test-{}", ::getpid());
}

int marked_processes() {
  int count = 0;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const bool is_process = std::isdigit(entry.path().filename().c_str()[0]) != 0;
    if (is_process && content(entry.path() / "cmdline").find(marker()) != std::string::npos)
      ++count;
  }
  return count;
}

void wait_for_marked(int count) {
  for (int i = 0; i < 1000 && marked_processes() != count; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(marked_processes(), count);
}

class Sandbox : public testing::Test {
 protected:
  void SetUp() override {
    if (sandbox_lacks()) GTEST_SKIP() << *sandbox_lacks();
    mounts_ = content("/proc/self/mountinfo");
  }
  void TearDown() override {
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);  // no child, not even a zombie
    EXPECT_EQ(marked_processes(), 0);
    EXPECT_EQ(content("/proc/self/mountinfo"), mounts_);
  }

 private:
  std::string mounts_;
};

TEST_F(Sandbox, GivesInputAndReturnsBothStreamsAndTheCode) {
  SandboxJob job = shell("cat; echo oops >&2; cat b/c; exit 3");
  job.input = "line\n";
  job.files = {{"b/c", std::string("x\0y", 3)}, {"b/d", ""}};
  const auto result = run_in_sandbox(job);
  EXPECT_EQ(result.end, End::exited);
  EXPECT_EQ(result.code, 3);
  EXPECT_EQ(result.output, std::string("line\nx\0y", 8));
  EXPECT_EQ(result.error, "oops\n");
  EXPECT_EQ(run_in_sandbox(shell("cat; echo end")).output, "end\n");  // no input is an empty one
}

TEST_F(Sandbox, TakesInputsAndOutputsLargerThanAPipe) {
  SandboxJob job = shell("cat; cat /dev/zero | head -c 3000000 >&2");
  job.input = std::string(5'000'000, 'x');
  const auto result = run_in_sandbox(job);
  EXPECT_EQ(result.end, End::exited);
  EXPECT_TRUE(result.output == job.input);
  EXPECT_EQ(result.error.size(), 3'000'000u);
}

TEST_F(Sandbox, HasTheEnvironmentOfTheJobAlone) {
  ::setenv("QAD_TEST_SECRET", "1", 1);
  SandboxJob job = shell("env | sort");
  job.environment = {"A=b"};
  EXPECT_EQ(run_in_sandbox(job).output,
            "A=b\nHOME=/tmp/job\nLANG=C.UTF-8\nPATH=/usr/local/bin:/usr/bin:/bin\nPWD=/tmp/job\n"
            "TMPDIR=/tmp\n");
}

TEST_F(Sandbox, LetsOrdinaryProgramsWork) {
  const auto result = run_in_sandbox(python(
      "import datetime, multiprocessing, os, random, subprocess, tempfile, threading\n"
      "if __name__ == '__main__':\n"
      "  with multiprocessing.Pool(2) as pool: print(pool.map(abs, [-1, 2]))\n"
      "  print(subprocess.run(['echo', 'x'], capture_output=True).stdout)\n"
      "  with tempfile.NamedTemporaryFile('w+') as f: f.write('ab'); f.seek(0); print(f.read())\n"
      "  thread = threading.Thread(target=print, args=[3]); thread.start(); thread.join()\n"
      "  print(len(os.urandom(4)), os.cpu_count() > 0, random.random() < 1)\n"
      "  print(datetime.datetime.now().year > 2000)"));
  EXPECT_EQ(result.output, "[1, 2]\nb'x\\n'\nab\n3\n4 True True\nTrue\n") << result.error;
}

TEST_F(Sandbox, ReportsCrashes) {
  const auto null = run_in_sandbox(python("import ctypes; ctypes.string_at(0)"));
  EXPECT_EQ(null.end, End::signalled);
  EXPECT_EQ(null.code, SIGSEGV);
  const auto deep =
      run_in_sandbox(python("import sys; sys.setrecursionlimit(10**9)\n"
                            "def f(x): return sorted([x], key=f)\n"  // through C, so on the C stack
                            "f(0)"));
  EXPECT_EQ(deep.end, End::signalled);
  EXPECT_EQ(deep.code, SIGSEGV);
  const auto exception = run_in_sandbox(python("def f(): f()\nf()"));
  EXPECT_EQ(exception.end, End::exited);
  EXPECT_EQ(exception.code, 1);
  EXPECT_THAT(exception.error, HasSubstr("RecursionError"));
}

TEST_F(Sandbox, StopsAnEndlessLoop) {
  SandboxJob job = python("print('begun', flush=True)\nwhile True: pass");
  job.limits.cpu_seconds = 1;
  EXPECT_EQ(run_in_sandbox(job).end, End::cpu_limit);
  job.limits.cpu_seconds = 100;
  job.limits.wall_seconds = 0.5;
  const auto result = run_in_sandbox(job);
  EXPECT_EQ(result.end, End::wall_limit);
  EXPECT_EQ(result.output, "begun\n");
}

TEST_F(Sandbox, StopsASleeperThatHasClosedItsStreams) {
  SandboxJob job = shell("exec sleep 100 >&- 2>&- <&-");
  job.limits.wall_seconds = 0.5;
  EXPECT_EQ(run_in_sandbox(job).end, End::wall_limit);
}

TEST_F(Sandbox, OutlivesForkBombs) {
  SandboxJob job = shell("b() { b " + marker() + " | b & }; b; sleep 100 " + marker());
  job.limits.wall_seconds = 1;
  job.limits.processes = 20;
  const auto in_shell = run_in_sandbox(job);
  EXPECT_FALSE(in_shell.end == End::exited && in_shell.code == 0);

  job.command = {"python3", "a.py", marker()};
  job.files = {{"a.py",
                "import os, time\n"
                "n = 0\n"
                "try:\n"
                "  while os.fork(): n += 1\n"
                "  time.sleep(100)\n"
                "except BlockingIOError: print(n)"}};
  EXPECT_EQ(run_in_sandbox(job).output, "19\n");

  job.files = {{"a.py",
                "import os\n"
                "while True:\n"
                "  try: os.fork()\n"
                "  except BlockingIOError: pass"}};
  EXPECT_EQ(run_in_sandbox(job).end, End::wall_limit);
}

TEST_F(Sandbox, CountsThreadsAsProcesses) {
  SandboxJob job = python(
      "import threading, time\n"
      "for i in range(100): threading.Thread(target=time.sleep, args=[100], daemon=True).start()");
  const auto result = run_in_sandbox(job);
  EXPECT_EQ(result.end, End::exited);
  EXPECT_THAT(result.error, HasSubstr("can't start new thread"));
}

TEST_F(Sandbox, StopsAHugePrint) {
  SandboxJob job = shell("yes | tee /dev/fd/2 2>&- & yes >&2");
  job.limits.output_bytes = 100'000;
  const auto result = run_in_sandbox(job);
  EXPECT_EQ(result.end, End::output_limit);
  EXPECT_EQ(result.output.size() + result.error.size(), 100'000u);
}

TEST_F(Sandbox, BoundsFiles) {
  SandboxJob job = python(
      "import errno\n"
      "try:\n"
      "  with open('/tmp/a', 'wb') as f:\n"
      "    while True: f.write(bytes(1 << 16))\n"
      "except OSError as e: print(errno.errorcode[e.errno])\n"
      "try:\n"
      "  for i in range(9):\n"  // each shorter than the limit
      "    with open(f'/tmp/job/{i}', 'wb') as f: f.write(bytes(300_000))\n"
      "except OSError as e: print(errno.errorcode[e.errno])\n"
      "try:\n"
      "  for i in range(10**6): open(f'/dev/shm/n{i}', 'w').close()\n"
      "except OSError as e: print(errno.errorcode[e.errno])");
  job.limits.file_bytes = 1 << 20;
  EXPECT_EQ(run_in_sandbox(job).output, "ENOSPC\nENOSPC\nENOSPC\n");
}

TEST_F(Sandbox, BoundsMemory) {
  SandboxJob job = python("x = bytearray(200 << 20)");
  EXPECT_EQ(run_in_sandbox(job).code, 0);
  job.limits.memory_bytes = 100 << 20;
  const auto alone = run_in_sandbox(job);
  EXPECT_EQ(alone.end, End::exited);
  EXPECT_THAT(alone.error, HasSubstr("MemoryError"));
  job.files[0].contents =
      "import os, time\n"
      "for i in range(9):\n"
      "  if os.fork() == 0: break\n"
      "x = b'x' * (40 << 20)\n"
      "time.sleep(100)";
  EXPECT_EQ(run_in_sandbox(job).end, End::memory_limit);
  job.files[0].contents =
      "import mmap, os, time\n"
      "x = mmap.mmap(-1, 70 << 20)\n"  // shared and counted in each
      "for i in range(60): x.write(bytes(1 << 20))\n"
      "if os.fork() == 0:\n"
      "  x.seek(0)\n"
      "  for i in range(60): x.read(1 << 20)\n"
      "time.sleep(100)";
  EXPECT_EQ(run_in_sandbox(job).end, End::memory_limit);
}

TEST_F(Sandbox, SeesNoFilesOfTheHost) {
  const ScratchFolder folder;
  fs::permissions(folder.path(), fs::perms(0755));
  const std::string name = marker() + ".txt";
  write_file(folder / name, "secret");
  const auto top = run_in_sandbox(python("import os; print(*os.listdir('/'))"));
  std::istringstream words(top.output);
  EXPECT_THAT(
      std::vector<std::string>(std::istream_iterator<std::string>(words), {}),
      IsSubsetOf({"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "dev", "tmp"}));
  const auto reads = run_in_sandbox(python(
      fmt::format("import os, sys\n"
                  "for path in ['{}', '{}', '/etc/passwd', '/etc/hostname', '/proc/1/root',\n"
                  "             '/proc', '/sys', '/root', '/home', '/host', '/dev/mem']:\n"
                  "  if os.path.lexists(path): print(path)\n"
                  "print(os.listdir('/tmp'), os.listdir('.'), os.getcwd())",
                  (folder / name).string(), folder.path().string())));
  EXPECT_EQ(reads.output, "['job'] ['a.py'] /tmp/job\n");
  SandboxJob all = shell("find / -name " + name + " -print -o -type f -printf .");
  all.limits.wall_seconds = all.limits.cpu_seconds = 300;  // /usr may be large and the machine busy
  const auto walk = run_in_sandbox(all);
  EXPECT_EQ(walk.end, End::exited);
  EXPECT_EQ(walk.output.find(name), std::string::npos);
  EXPECT_GT(walk.output.size(), 1000u);  // a dot for each file below /usr
}

TEST_F(Sandbox, CannotWriteToTheHost) {
  const auto result = run_in_sandbox(
      shell("for f in /a /usr/a /usr/bin/a /dev/a /etc/a /etc/ld.so.cache /bin/sh; do "
            "(echo x > $f) 2>&1; done; echo x > /dev/null && echo fine"));
  EXPECT_EQ(result.output.find("fine"), result.output.size() - 5);
  EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 8);
}

TEST_F(Sandbox, ShowsWhatTheJobNames) {
  const ScratchFolder folder;
  fs::permissions(folder.path(), fs::perms(0755));
  write_file(folder / "a", "shown");
  write_file(folder / "b", "hidden");
  const std::string at = folder.path().string();
  SandboxJob job = shell(fmt::format("cat {0}/a; ls {0}; echo x > {0}/a", at));
  job.read_only = {folder / "a"};
  const auto file = run_in_sandbox(job);
  EXPECT_EQ(file.output, "showna\n");
  EXPECT_NE(file.code, 0);
  job.read_only = {folder.path(), folder / "a", "/usr/lib"};
  EXPECT_EQ(run_in_sandbox(job).output, "showna\nb\n");
  EXPECT_EQ(content(folder / "a"), "shown");
}

TEST_F(Sandbox, HasNoNetwork) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listener, 1), 0);
  ASSERT_EQ(::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const auto result = run_in_sandbox(python(
      fmt::format("import socket\n"
                  "for attempt in [lambda: socket.create_connection(('127.0.0.1', {})),\n"
                  "                lambda: socket.create_connection(('::1', 80)),\n"
                  "                lambda: socket.getaddrinfo('example.com', 80),\n"
                  "                lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),\n"
                  "                lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),\n"
                  "                lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)]:\n"
                  "  try: attempt(); print('bad')\n"
                  "  except OSError: print('no')\n"
                  "a, b = socket.socketpair(); a.send(b'local'); print(b.recv(9))",
                  ntohs(address.sin_port))));
  EXPECT_EQ(result.output, "no\nno\nno\nno\nno\nno\nb'local'\n");
  ::close(listener);
}

TEST_F(Sandbox, ReachesNoProcessOutside) {
  const auto result =
      run_in_sandbox(python(fmt::format("import os\n"
                                        "print(os.getpid(), os.getppid())\n"
                                        "for pid in [{}, {}]:\n"
                                        "  try: os.kill(pid, 0); print('bad')\n"
                                        "  except ProcessLookupError: print('no')\n"
                                        "try: os.kill(-1, 9)\n"
                                        "except ProcessLookupError: print('alone')",
                                        ::getpid(), ::getppid() == 1 ? 2 : ::getppid())));
  EXPECT_EQ(result.output, "1 0\nno\nno\nalone\n") << result.error;
}

TEST_F(Sandbox, HasNoRights) {
  const auto result = run_in_sandbox(python(fmt::format(
      "import ctypes, os\n"
      "c = ctypes.CDLL(None, use_errno=True)\n"
      "def call(number, *args):\n"
      "  ctypes.set_errno(0)\n"
      "  print(c.syscall(number, *args), os.strerror(ctypes.get_errno()))\n"
      "call({ptrace}, 0, 0, 0, 0)\n"
      "call({mount}, b'none', b'/tmp', b'tmpfs', 0, None)\n"
      "call({unshare}, {newuser})\n"
      "call({clone}, {newuser} | 17, 0, 0, 0, 0)\n"
      "call({chroot}, b'/tmp')\n"
      "call({bpf}, 0, 0, 0)\n"
      "call({keyctl}, 0, 0, 0)\n"
      "call({memfd}, b'a', 0)\n"
      "call({setuid}, 0)\n"
      "call({chown}, 0, b'/tmp/job/a.py', 0, 0, 0)\n"
      "print(c.prctl(39, 0, 0, 0, 0), c.prctl(21, 0, 0, 0, 0))",  // PR_GET_NO_NEW_PRIVS,
                                                                  // PR_GET_SECCOMP
      fmt::arg("ptrace", SYS_ptrace), fmt::arg("mount", SYS_mount),
      fmt::arg("unshare", SYS_unshare), fmt::arg("clone", SYS_clone),
      fmt::arg("newuser", CLONE_NEWUSER), fmt::arg("chroot", SYS_chroot), fmt::arg("bpf", SYS_bpf),
      fmt::arg("keyctl", SYS_keyctl), fmt::arg("memfd", SYS_memfd_create),
      fmt::arg("setuid", SYS_setuid), fmt::arg("chown", SYS_fchownat))));
  std::istringstream lines(result.output);
  for (int i = 0; i < 8; ++i) {
    std::string line;
    std::getline(lines, line);
    EXPECT_EQ(line, "-1 Operation not permitted") << i;
  }
  std::string setuid, chown, rest;
  std::getline(lines, setuid);
  std::getline(lines, chown);
  std::getline(lines, rest);
  EXPECT_EQ(setuid, "-1 Invalid argument");  // there is no user 0
  EXPECT_EQ(chown.substr(0, 2), "-1");
  EXPECT_EQ(rest, "1 2") << result.error;
}

TEST_F(Sandbox, EndsWithItsFirstProcess) {
  SandboxJob job = shell("sh -c 'sleep 100; : " + marker() + "' & setsid sleep 100 & echo done");
  job.limits.wall_seconds = 60;
  const auto result = run_in_sandbox(job);
  EXPECT_EQ(result.end, End::exited);
  EXPECT_EQ(result.output, "done\n");
}

TEST_F(Sandbox, InheritsNoFiles) {
  const int leak = ::open("/dev/null", O_RDONLY);
  const int high = ::fcntl(leak, F_DUPFD, 100);
  const auto result =
      run_in_sandbox(python("import os\n"
                            "def is_open(fd):\n"
                            "  try: os.fstat(fd); return True\n"
                            "  except OSError: return False\n"
                            "print([fd for fd in range(200) if is_open(fd)])"));
  EXPECT_EQ(result.output, "[0, 1, 2]\n");
  ::close(leak);
  ::close(high);
}

TEST_F(Sandbox, RunsManyAtOnce) {
  std::vector<std::future<int>> threads;
  for (int t = 0; t < 6; ++t) {
    threads.push_back(std::async(std::launch::async, [t] {
      int right = 0;
      for (int i = 0; i < 5; ++i) {
        const std::string name = fmt::format("{}.{}", t, i);
        SandboxJob job = shell("cat; cat a >&2; ls; exit 7");
        job.input = name;
        job.files = {{"a", name}};
        const auto result = run_in_sandbox(job);
        right += result.output == name + "a\n" && result.error == name && result.code == 7;
      }
      return right;
    }));
  }
  for (auto& thread : threads) EXPECT_EQ(thread.get(), 5);
}

TEST_F(Sandbox, DiesWithItsCaller) {
  const SandboxJob job = shell("sleep 100; : " + marker());
  const pid_t caller = ::fork();
  if (caller == 0) {
    run_in_sandbox(job);
    ::_exit(0);
  }
  wait_for_marked(1);
  ::kill(caller, SIGKILL);
  ::waitpid(caller, nullptr, 0);
  wait_for_marked(0);
}

TEST_F(Sandbox, SaysWhatIsWrongWithAJob) {
  const auto error_with = [](auto change) {
    SandboxJob job = shell("true");
    change(job);
    return error_of([&] { run_in_sandbox(job); });
  };
  EXPECT_THAT(error_with([](SandboxJob& job) { job.command = {"no-such-program"}; }),
              HasSubstr("cannot start no-such-program: No such file or directory"));
  EXPECT_THAT(error_with([](SandboxJob& job) { job.command = {}; }),
              HasSubstr("expected a command"));
  for (const char* name : {"", "/a", "../a", "a/../b", "a/", "."}) {
    EXPECT_THAT(error_with([&](SandboxJob& job) {
                  job.files = {{name, ""}};
                }),
                HasSubstr("inside of the working folder"))
        << name;
  }
  for (const char* path : {"a", "/", "/tmp", "/usr/../root"}) {
    EXPECT_THAT(error_with([&](SandboxJob& job) { job.read_only = {path}; }),
                HasSubstr("expected a plain absolute path"))
        << path;
  }
  EXPECT_THAT(error_with([](SandboxJob& job) { job.read_only = {"/no/such"}; }),
              HasSubstr("/no/such: cannot be shown"));
  EXPECT_THAT(error_with([](SandboxJob& job) { job.limits.processes = 0; }),
              HasSubstr("every limit to be positive"));
  EXPECT_THAT(error_with([](SandboxJob& job) {
                job.limits.file_bytes = 4096;
                job.files = {{"a", std::string(10000, 'x')}};
              }),
              HasSubstr("cannot make /tmp/job/a: No space left on device"));
  if (::geteuid() != 0) return;
  const ScratchFolder closed;  // to others, and the sandbox of root is nobody's
  fs::create_directory(closed / "a");
  EXPECT_THAT(error_with([&](SandboxJob& job) { job.read_only = {closed / "a"}; }),
              HasSubstr("Permission denied; the sandbox of root runs as the user nobody"));
}

// As in a container whose runtime allows no user namespaces.
TEST(SandboxRefusal, NamesTheReason) {
  const pid_t child = ::fork();
  if (child == 0) {
    sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args)),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_NEWUSER, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program{std::size(filter), filter};
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) ::_exit(2);
    const std::string error = error_of([] { run_in_sandbox(shell("true")); });
    const bool told = error.find(
                          "cannot make user, mount, process and network namespaces: Operation "
                          "not permitted; to allow it") != error.npos;
    ::_exit(told ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace qad::score
