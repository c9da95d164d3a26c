// The precompiled header of the tests of rooms without LibTorch.
#pragma once
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/pch.h"
