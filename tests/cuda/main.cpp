// Loads the CUDA plug-in, as the program does, and runs the tests. Without a GPU it fails: a run
// that skipped everything would look like one that passed. QAD_TEST_SIZES=few: harness.h.
#include <ATen/Context.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdio>

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  // Before anything asks PyTorch about CUDA: it remembers that there was none.
  if (!dlopen(QAD_CUDA_PLUGIN, RTLD_NOW | RTLD_GLOBAL)) {
    std::fprintf(stderr, "test_cuda: %s\n", dlerror());
    return 1;
  }
  if (at::getNumGPUs() == 0) {
    std::fprintf(stderr, "test_cuda: no CUDA device, or its driver is too old for CUDA 13\n");
    return 1;
  }
  return RUN_ALL_TESTS();
}
