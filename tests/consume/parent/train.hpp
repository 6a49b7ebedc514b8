#pragma once

/// Whether training an adapter lowers the loss.
bool training_helps();
