#include "version.hpp"

#include <loraplus/loraplus.hpp>

bool is_this_version() {
  return LORAPLUS_VERSION_GE(LORAPLUS_VERSION_MAJOR, LORAPLUS_VERSION_MINOR,
                             LORAPLUS_VERSION_PATCH) &&
         LORAPLUS_VERSION_GE(0, 0, 1000) &&
         !LORAPLUS_VERSION_GE(LORAPLUS_VERSION_MAJOR, LORAPLUS_VERSION_MINOR,
                              LORAPLUS_VERSION_PATCH + 1) &&
         !LORAPLUS_VERSION_GE(LORAPLUS_VERSION_MAJOR, LORAPLUS_VERSION_MINOR + 1, 0) &&
         !LORAPLUS_VERSION_GE(LORAPLUS_VERSION_MAJOR + 1, 0, 0);
}
