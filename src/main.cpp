// The program is src/cli; this file only gives it a place to start.
#include "cli/commands.h"

int main(int argc, char** argv) {
  return qad::cli::run(argc, argv);
}
