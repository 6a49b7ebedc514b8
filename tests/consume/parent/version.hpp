#pragma once

/// Whether this is the version that it says: version.cpp includes the whole library, as main.cpp
/// does.
bool is_this_version();
