// The one precompiled header of every file that uses LibTorch. torch/torch.h costs 45 s a file;
// this costs 33 s once and 4 s a file (design decision "LibTorch, and compile time"). Nothing of
// our own belongs here.
#pragma once
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>
