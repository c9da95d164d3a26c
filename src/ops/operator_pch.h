// The precompiled header of the operators: torch_pch.h, and what declaring one to PyTorch's
// dispatcher takes. Nothing of our own belongs here.
#pragma once
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "core/torch_pch.h"
