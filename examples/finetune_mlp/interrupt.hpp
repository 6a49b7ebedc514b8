// Ctrl-C: the program stops at the next step and keeps what it has.
#pragma once

namespace finetune {

/// Thrown at a step after SIGINT or SIGTERM.
struct Interrupted {};

/// From here on the first SIGINT or SIGTERM is noted; a second one ends the program at once. A
/// closed pipe is an error of writing and no signal.
void catch_interrupts();

/// @throws Interrupted if a signal has been noted
void throw_if_interrupted();

}  // namespace finetune
