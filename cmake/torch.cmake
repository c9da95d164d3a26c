# LibTorch from the unpacked PyPI wheel, as one imported target. The wheel's own TorchConfig.cmake insists on
# a CUDA toolkit when the wheel was built with CUDA; a CPU build needs two libraries and the headers.
set(QAD_TORCH "$ENV{QAD_TORCH}" CACHE PATH "Folder with torch/ of the LibTorch 2.11.0 wheel (scripts/setup makes it)")
if(NOT QAD_TORCH)
  set(QAD_TORCH "$ENV{HOME}/.cache/qad/torch-2.11.0" CACHE PATH "" FORCE)
endif()
if(NOT EXISTS "${QAD_TORCH}/torch/lib/libtorch_cpu.so")
  message(FATAL_ERROR "LibTorch not found in ${QAD_TORCH}: run scripts/setup, or set QAD_TORCH to the folder that holds torch/")
endif()
add_library(torch_cpu INTERFACE)
target_include_directories(torch_cpu SYSTEM INTERFACE
  "${QAD_TORCH}/torch/include" "${QAD_TORCH}/torch/include/torch/csrc/api/include")
target_link_libraries(torch_cpu INTERFACE
  "${QAD_TORCH}/torch/lib/libtorch_cpu.so" "${QAD_TORCH}/torch/lib/libc10.so" OpenMP::OpenMP_CXX)
target_link_options(torch_cpu INTERFACE "-Wl,-rpath,${QAD_TORCH}/torch/lib" "-Wl,--disable-new-dtags"
  "-Wl,-rpath-link,${QAD_TORCH}/nvidia/cu13/lib")

# The wheel brings the headers of another fmt, without its library; they must not hide the system's. Nothing that we
# include from LibTorch needs them.
find_path(QAD_FMT_INCLUDE fmt/core.h REQUIRED)
file(MAKE_DIRECTORY "${CMAKE_BINARY_DIR}/first")
file(CREATE_LINK "${QAD_FMT_INCLUDE}/fmt" "${CMAKE_BINARY_DIR}/first/fmt" SYMBOLIC)
target_include_directories(torch_cpu SYSTEM BEFORE INTERFACE "${CMAKE_BINARY_DIR}/first")
