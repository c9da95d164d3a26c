// The precompiled header of every file that does not use LibTorch: what nearly all of them include
// and what is slow to read. Each file still includes what it uses. Nothing of our own belongs here.
#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>
