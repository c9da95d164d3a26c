// Found from where the program lies.
#include "recipe/paths.h"

#include "core/error.h"

namespace qad::recipe {

fs::path task_folder() {
  const fs::path program = fs::read_symlink("/proc/self/exe").parent_path();
  for (const fs::path& folder :
       {program / "tasks", program.parent_path() / "tasks", program / "../share/qad/tasks"})
    if (fs::is_directory(folder)) return fs::canonical(folder);
  fail("task", "no folder of tasks beside {}; give the path of a task's .yaml", program.string());
}

}  // namespace qad::recipe
