// The precompiled header of files that use LibTorch. torch/torch.h costs 45 s a file; this costs 10
// s once and half a second a file. It holds the tensor with its methods; a file that calls a free
// function includes that one's header (ATen/ops/zeros.h), some 4 s. Autograd's own headers are for
// operators only (ops/operator_pch.h). Nothing of our own belongs here.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include "core/pch.h"
