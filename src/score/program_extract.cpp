// Fenced blocks as CommonMark has them (section 4.5), which is how models write code.
#include <algorithm>
#include <cctype>
#include <string>
#include <vector>

#include "score/program.h"
#include "score/program_run.h"

namespace qad::score {
namespace {

struct Block {
  std::string language;  // lower case
  std::string code;
};

struct Fence {
  char mark = 0;  // 0: no fence
  std::size_t indent = 0, length = 0;
  std::string_view info;
};

std::string_view trim(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t\r");
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") + 1 - begin);
}

Fence fence_of(std::string_view line) {
  Fence fence;
  fence.indent = std::min(line.find_first_not_of(" \t"), line.size());
  line.remove_prefix(fence.indent);
  if (line.empty() || (line[0] != '`' && line[0] != '~')) return fence;
  fence.length = std::min(line.find_first_not_of(line[0]), line.size());
  fence.info = trim(line.substr(fence.length));
  // "```x``` is" is code within a line.
  if (fence.length < 3 || (line[0] == '`' && fence.info.find('`') != line.npos)) return fence;
  fence.mark = line[0];
  return fence;
}

std::vector<Block> fenced_blocks(std::string_view text) {
  std::vector<Block> blocks;
  Fence open;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size() - 1);
    std::string_view line = text.substr(0, end + 1);
    text.remove_prefix(line.size());
    const Fence fence = fence_of(line.substr(0, line.find('\n')));
    if (open.mark == 0) {
      if (fence.mark == 0) continue;
      open = fence;
      std::string language(fence.info.substr(0, fence.info.find_first_of(" \t{,")));
      std::transform(language.begin(), language.end(), language.begin(),
                     [](unsigned char c) { return std::tolower(c); });
      blocks.push_back({language, ""});
    } else if (fence.mark == open.mark && fence.length >= open.length && fence.info.empty()) {
      open.mark = 0;
    } else {  // in a list a block is indented as a whole
      const std::size_t blank = std::min(line.find_first_not_of(" \t"), line.size());
      blocks.back().code += line.substr(std::min(open.indent, blank));
    }
  }
  return blocks;
}

bool is_python(const Block& block) {
  return block.language == "python" || block.language == "python3" || block.language == "py";
}

}  // namespace

std::string extract_code(std::string_view response, std::string_view name) {
  const std::vector<Block> blocks = fenced_blocks(response);
  const auto last = [&](auto wanted) {
    const auto found = std::find_if(blocks.rbegin(), blocks.rend(), wanted);
    return found == blocks.rend() ? nullptr : &found->code;
  };
  const auto defines_it = [&](const Block& block) {
    return (is_python(block) || block.language.empty()) && defines(block.code, name);
  };
  const std::string* code = name.empty() ? nullptr : last(defines_it);
  if (code == nullptr) code = last(is_python);
  if (code == nullptr) code = last([](const Block& block) { return block.language.empty(); });
  return code != nullptr ? *code : std::string(response);
}

}  // namespace qad::score
