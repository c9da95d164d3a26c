// The namespaces already keep the host away; this takes away the parts of the kernel that most
// holes were found in, and the few ways to hold memory that no limit of the sandbox counts (memfd,
// System V shared memory and messages).
#include "score/sandbox_filter.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace qad::score {
namespace {

#if defined(__x86_64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "sandbox_filter.cpp: name this architecture's AUDIT_ARCH and where its first argument lies"
#endif

constexpr std::uint32_t kDenied[] = {
    // other processes
    SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, SYS_pidfd_getfd,
    SYS_process_madvise,
    // mounts and namespaces
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_unshare, SYS_setns, SYS_mount_setattr,
    SYS_move_mount, SYS_open_tree, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick,
    SYS_open_by_handle_at, SYS_name_to_handle_at, SYS_swapon, SYS_swapoff, SYS_quotactl,
    // the kernel itself
    SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup, SYS_io_uring_enter,
    SYS_io_uring_register, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load,
    SYS_reboot, SYS_acct, SYS_syslog, SYS_keyctl, SYS_add_key, SYS_request_key, SYS_lookup_dcookie,
    SYS_fanotify_init, SYS_vhangup, SYS_settimeofday, SYS_clock_settime, SYS_adjtimex,
    SYS_clock_adjtime, SYS_sethostname, SYS_setdomainname,
#if defined(__x86_64__)
    SYS_iopl, SYS_ioperm, SYS_modify_ldt, SYS_kexec_file_load, SYS_uselib, SYS_ustat, SYS_sysfs,
#endif
    // memory that nobody counts
    SYS_memfd_create, SYS_memfd_secret, SYS_shmget, SYS_msgget, SYS_semget, SYS_mq_open};

constexpr std::uint32_t kNewNamespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS |
                                         CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |
                                         static_cast<std::uint32_t>(CLONE_NEWNET);
constexpr std::uint32_t kAllow = SECCOMP_RET_ALLOW;

constexpr std::uint32_t fails(int error) {
  return SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(error);
}

}  // namespace

std::vector<sock_filter> sandbox_filter() {
  std::vector<sock_filter> program;
  const auto load = [&](std::size_t offset) {
    program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset)));
  };
  // The next `skip` instructions are left out unless "accumulator TEST value".
  const auto when = [&](std::uint16_t test, std::uint32_t value, std::uint8_t skip = 1) {
    program.push_back(BPF_JUMP(static_cast<std::uint16_t>(BPF_JMP | test | BPF_K), value, 0, skip));
  };
  const auto answer = [&](std::uint32_t what) {
    program.push_back(BPF_STMT(BPF_RET | BPF_K, what));
  };
  constexpr std::size_t kFirstArgument = offsetof(seccomp_data, args);  // its low half: both
                                                                        // architectures are
                                                                        // little-endian
  load(offsetof(seccomp_data, arch));
  program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0));
  answer(SECCOMP_RET_KILL_PROCESS);
  load(offsetof(seccomp_data, nr));
#if defined(__x86_64__)
  when(BPF_JGE, 0x40000000);  // x32: the same calls under other numbers
  answer(fails(ENOSYS));
#endif
  for (const std::uint32_t number : kDenied) {
    when(BPF_JEQ, number);
    answer(fails(EPERM));
  }
  when(BPF_JEQ, SYS_clone3);  // its flags lie behind a pointer; C libraries fall back to clone
  answer(fails(ENOSYS));
  when(BPF_JEQ, SYS_clone, 4);
  load(kFirstArgument);
  when(BPF_JSET, kNewNamespaces);
  answer(fails(EPERM));
  answer(kAllow);
  for (const std::uint32_t number : {SYS_socket, SYS_socketpair}) {
    when(BPF_JEQ, number, 4);
    load(kFirstArgument);
    when(BPF_JEQ, AF_UNIX);
    answer(kAllow);
    answer(fails(EAFNOSUPPORT));
  }
  answer(kAllow);
  return program;
}

}  // namespace qad::score
