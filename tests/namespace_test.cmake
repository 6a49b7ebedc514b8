# Every header of the library opens the namespace of its version, which is inline in loraplus: what two versions
# in one program define has two names.
file(STRINGS "${ROOT}/include/loraplus/version.hpp" version REGEX "^#define LORAPLUS_VERSION_(MAJOR|MINOR) [0-9]+$")
string(REGEX REPLACE "[^0-9;]" "" version "${version}")
string(REPLACE ";" "_" version "${version}")
file(GLOB_RECURSE headers "${ROOT}/include/*.hpp")
foreach(header IN LISTS headers)
  file(STRINGS "${header}" lines REGEX "^ *(inline )?namespace loraplus")
  foreach(line IN LISTS lines)
    if(NOT line MATCHES "^namespace loraplus::inline v${version}(::[a-z]+)* {$")
      message(FATAL_ERROR "${header}: '${line}' must be in loraplus::inline v${version}")
    endif()
  endforeach()
endforeach()
