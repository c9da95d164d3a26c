// Ctrl-C as a wish that is asked for, so that what is under way can be saved.
#pragma once

#include <csignal>

namespace qad {

// While alive, the first SIGINT or SIGTERM is noted; a second one ends the program. One at a time.
class Interrupt {
 public:
  Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;
  ~Interrupt();
  bool asked() const;
  bool terminated() const;  // by SIGTERM

 private:
  struct sigaction old_int_ {
  }, old_term_{};
};

}  // namespace qad
