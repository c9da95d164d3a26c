# The CUDA plug-in libqad_cuda.so, its tests and its timings. -DQAD_CUDA=ON makes the targets; they are built only
# when asked for by name (scripts/cuda), since the program needs none of them until a GPU is asked for. The toolkit
# (nvcc 13) compiles and links without a GPU.
option(QAD_CUDA "Targets of the CUDA plug-in" OFF)
if(NOT QAD_CUDA)
  return()
endif()
# Machine code for A100 and Hopper, and code that drivers translate for what is newer. Each entry costs every .cu file
# a second or two; "80-real;90a-real;100f-real;120f-real" saves Blackwell the translation at first start and rounds to
# E2M1 by its own instruction, which only code for a family (f) or one chip (a) may hold (cuda/nvfp4_block.cuh).
set(QAD_CUDA_ARCHITECTURES "80-real;90a-real;90-virtual" CACHE STRING "CMAKE_CUDA_ARCHITECTURES of the plug-in")
# CMake 3.25 knows no families where it looks for the compiler; targets take them.
string(REGEX REPLACE "([0-9])f" "\\1" CMAKE_CUDA_ARCHITECTURES "${QAD_CUDA_ARCHITECTURES}")
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)  # the one that LibTorch has loaded
enable_language(CUDA)
set(CMAKE_CUDA_ARCHITECTURES "${QAD_CUDA_ARCHITECTURES}")
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc speaks C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
endif()
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13)
  message(FATAL_ERROR "CUDA toolkit: expected 13 or newer, as LibTorch's wheel, found ${CMAKE_CUDA_COMPILER_VERSION}")
endif()
if(NOT EXISTS "${QAD_TORCH}/torch/lib/libtorch_cuda.so")
  message(FATAL_ERROR "LibTorch in ${QAD_TORCH} has no libtorch_cuda.so: take the cu130 wheel (scripts/setup)")
endif()

file(GLOB sources CONFIGURE_DEPENDS "src/cuda/*.cpp" "src/cuda/*.cu")
add_library(qad_cuda SHARED EXCLUDE_FROM_ALL ${sources})
# Host code as everywhere; of the CUDA compiler only warnings, since it does not know -march.
get_target_property(host_flags qad_flags INTERFACE_COMPILE_OPTIONS)
target_compile_options(qad_cuda PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${host_flags}>"
  # Relaxed: constexpr functions that the CPU's code defines (random numbers, formats) run in kernels, too.
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra;--expt-relaxed-constexpr>")
target_include_directories(qad_cuda PRIVATE src)
get_target_property(torch_includes torch_cpu INTERFACE_INCLUDE_DIRECTORIES)
target_include_directories(qad_cuda SYSTEM PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${torch_includes}>"
  "$<$<COMPILE_LANGUAGE:CXX>:${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES}>")
set(torch_lib "${QAD_TORCH}/torch/lib")
# Nothing here calls libtorch_cuda.so by name: what it brings is PyTorch's own operators on CUDA.
target_link_libraries(qad_cuda PRIVATE fmt::fmt -Wl,--no-as-needed "${torch_lib}/libtorch_cuda.so"
  "${torch_lib}/libc10_cuda.so" "${torch_lib}/libtorch_cpu.so" "${torch_lib}/libc10.so")
target_link_options(qad_cuda PRIVATE "-Wl,-rpath,${torch_lib}" "-Wl,--disable-new-dtags")

file(GLOB sources CONFIGURE_DEPENDS "tests/cuda/*.cpp")
add_executable(test_cuda EXCLUDE_FROM_ALL ${sources})
# The whole of qad_ops: operators are called by name, so that the linker sees no use of them.
target_link_libraries(test_cuda PRIVATE "$<LINK_LIBRARY:WHOLE_ARCHIVE,qad_ops>" GTest::gtest ${CMAKE_DL_LIBS})
target_include_directories(test_cuda PRIVATE tests)
target_precompile_headers(test_cuda REUSE_FROM test_torch_pch)
add_executable(bench_cuda EXCLUDE_FROM_ALL bench/cuda/operators.cpp bench/cuda/hybrid.cpp bench/cuda/optimizer.cpp)
target_link_libraries(bench_cuda PRIVATE "$<LINK_LIBRARY:WHOLE_ARCHIVE,qad_ops>" "${torch_lib}/libc10_cuda.so"
  "${CMAKE_CUDA_COMPILER_LIBRARY_ROOT}/lib64/libcudart.so" ${CMAKE_DL_LIBS})
target_include_directories(bench_cuda SYSTEM PRIVATE "${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES}")
foreach(program test_cuda bench_cuda)
  target_compile_definitions(${program} PRIVATE QAD_CUDA_PLUGIN="libqad_cuda.so")
  target_compile_options(${program} PRIVATE ${quick})
  set_target_properties(${program} PROPERTIES BUILD_RPATH "$ORIGIN")  # where the plug-in is
  target_link_options(${program} PRIVATE -Wl,--allow-shlib-undefined)
  add_dependencies(${program} qad_cuda)
endforeach()
set_target_properties(qad_cuda PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}")
add_dependencies(qad qad_cuda)  # beside the program lies the plug-in of the same sources
