// SPDX-License-Identifier: MIT
#pragma once

/// The version of the library; the build files read it from here.
#define LORAPLUS_VERSION_MAJOR 0
#define LORAPLUS_VERSION_MINOR 1
#define LORAPLUS_VERSION_PATCH 0
