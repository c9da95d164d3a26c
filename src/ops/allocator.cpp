// The raw pointer of malloc is the context of a block, so that freeing needs no look-up.
#include "ops/allocator.h"

#include <malloc.h>

#include <cstdlib>
#include <new>

namespace qad::ops {
namespace {

constexpr std::size_t kAlignment = 64;  // a cache line, and the widest vector

class MallocAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &std::free, c10::Device(c10::DeviceType::CPU)};
    void* raw = std::malloc(bytes + kAlignment);
    if (raw == nullptr) throw std::bad_alloc();
    const auto address = reinterpret_cast<std::uintptr_t>(raw);
    void* aligned = reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
    return {aligned, raw, &std::free, c10::Device(c10::DeviceType::CPU)};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

}  // namespace

void install_allocator() {
  // A training step allocates and frees the same large blocks again and again; by default glibc
  // would map and unmap (and the kernel zero) each of them, which cost a quarter of the step.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);
  static MallocAllocator allocator;
  c10::SetAllocator(c10::DeviceType::CPU, &allocator, 1);
}

}  // namespace qad::ops
