// SPDX-License-Identifier: MIT
#pragma once

/// The version of the library; the build files read it from here. This changes with what breaks.
#define LORAPLUS_VERSION_MAJOR 0
/// This changes with what is added, and while the major version is 0 with what breaks.
#define LORAPLUS_VERSION_MINOR 1
/// This changes with what is mended.
#define LORAPLUS_VERSION_PATCH 0

/// Whether the library is of this version or a newer one: `#if LORAPLUS_VERSION_GE(0, 1, 0)`.
#define LORAPLUS_VERSION_GE(major, minor, patch)                          \
  (LORAPLUS_VERSION_MAJOR != (major)   ? LORAPLUS_VERSION_MAJOR > (major) \
   : LORAPLUS_VERSION_MINOR != (minor) ? LORAPLUS_VERSION_MINOR > (minor) \
                                       : LORAPLUS_VERSION_PATCH >= (patch))
