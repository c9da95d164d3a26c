// The precompiled header of the tests of rooms with LibTorch.
#pragma once
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/torch_pch.h"
