// Signal handlers may set a flag and little else.
#include "core/interrupt.h"

namespace qad {
namespace {

volatile std::sig_atomic_t asked_for = 0;  // the signal

}  // namespace

Interrupt::Interrupt() {
  asked_for = 0;
  struct sigaction action {};
  action.sa_handler = [](int signal) { asked_for = signal; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, &old_int_);
  sigaction(SIGTERM, &action, &old_term_);
}

Interrupt::~Interrupt() {
  sigaction(SIGINT, &old_int_, nullptr);
  sigaction(SIGTERM, &old_term_, nullptr);
}

bool Interrupt::asked() const {
  return asked_for != 0;
}

bool Interrupt::terminated() const {
  return asked_for == SIGTERM;
}

}  // namespace qad
