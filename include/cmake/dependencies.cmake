# Where Eigen and nlohmann_json come from: a target that a parent project has already, else a package of
# the system, and only then a download. When all is found, nothing asks the network.
option(LORAPLUS_FETCH "Download Eigen (and nlohmann_json, if LORAPLUS_IO is ON) if it is not installed" ON)
set(LORAPLUS_EIGEN_INCLUDE_DIR "" CACHE PATH
    "The folder of the headers of Eigen, for one that has no package; it goes before an installed one")
set(LORAPLUS_IO AUTO CACHE STRING
    "loraplus::io, which needs nlohmann_json: ON, OFF, or AUTO, if it is installed")
set_property(CACHE LORAPLUS_IO PROPERTY STRINGS AUTO ON OFF)

# A line that begins with a space stays as it is in a message of CMake.
set(loraplus_eigen_advice " Install Eigen 3.4 or newer:
   Debian, Ubuntu:  apt install libeigen3-dev
   Fedora:          dnf install eigen3-devel
   macOS:           brew install eigen
   Windows:         vcpkg install eigen3")
set(loraplus_json_advice " Install nlohmann_json:
   Debian, Ubuntu:  apt install nlohmann-json3-dev
   Fedora:          dnf install json-devel
   macOS:           brew install nlohmann-json
   Windows:         not there yet, loraplus::io uses the files of POSIX")

# Sets <name>_SOURCE_DIR to a folder that holds the header. The archive is downloaded here and not by FetchContent, whose
# error could not say what to install instead; the rest is FetchContent's, with its variables:
# FETCHCONTENT_SOURCE_DIR_<NAME> names a folder that is there already.
function(loraplus_fetch name header url sha256 advice)
  include(FetchContent)
  string(TOUPPER "${name}" upper)
  string(TOLOWER "${name}" lower)
  get_filename_component(file "${url}" NAME)
  set(archive "${FETCHCONTENT_BASE_DIR}/${sha256}-${file}")
  set(there "${FETCHCONTENT_SOURCE_DIR_${upper}}")
  set(before "${FETCHCONTENT_BASE_DIR}/${lower}-src")
  if(there)
    if(NOT EXISTS "${there}/${header}")
      message(FATAL_ERROR "loraplus: FETCHCONTENT_SOURCE_DIR_${upper}: there is no ${there}/${header}.\n${advice}")
    endif()
  elseif(FETCHCONTENT_FULLY_DISCONNECTED)  # what was downloaded before is taken
    if(NOT EXISTS "${before}/${header}")
      message(FATAL_ERROR "loraplus: ${name} was not found and may not be downloaded.\n${advice}")
    endif()
  elseif(NOT LORAPLUS_FETCH)
    message(FATAL_ERROR "loraplus: ${name} was not found, and LORAPLUS_FETCH is off.\n${advice}")
  elseif(NOT EXISTS "${archive}")
    loraplus_download(${name} "${url}" ${sha256} "${archive}" "${advice}")
  endif()
  # Its headers are all that is needed: a folder that is not there keeps its own CMake project out.
  FetchContent_Declare(${name} URL "${archive}" URL_HASH SHA256=${sha256} SOURCE_SUBDIR none)
  FetchContent_MakeAvailable(${name})
  set(${name}_SOURCE_DIR "${${lower}_SOURCE_DIR}" PARENT_SCOPE)
endfunction()

# The archive of that hash, or nothing and an error.
function(loraplus_download name url sha256 archive advice)
  message(STATUS "loraplus: ${name} is not installed, downloading ${url}")
  file(DOWNLOAD "${url}" "${archive}.part" STATUS status INACTIVITY_TIMEOUT 30)
  file(SHA256 "${archive}.part" found)
  list(GET status 0 code)
  list(GET status 1 reason)
  if(code EQUAL 0 AND NOT found STREQUAL sha256)
    set(code 1)
    set(reason "the archive is another one, with the SHA-256 ${found}")
  endif()
  if(NOT code EQUAL 0)
    file(REMOVE "${archive}.part")
    message(FATAL_ERROR "loraplus: ${name} was not found and cannot be downloaded (${reason}).\n${advice}")
  endif()
  file(RENAME "${archive}.part" "${archive}")
endfunction()

# A target as the package would make it, for headers without one.
function(loraplus_import target folder)
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} INTERFACE "${folder}")
endfunction()

if(TARGET Eigen3::Eigen)
  # the parent project's
elseif(LORAPLUS_EIGEN_INCLUDE_DIR)
  if(NOT EXISTS "${LORAPLUS_EIGEN_INCLUDE_DIR}/Eigen/Core")
    message(FATAL_ERROR "LORAPLUS_EIGEN_INCLUDE_DIR: there is no ${LORAPLUS_EIGEN_INCLUDE_DIR}/Eigen/Core")
  endif()
  loraplus_import(Eigen3::Eigen "${LORAPLUS_EIGEN_INCLUDE_DIR}")
else()
  # Unversioned: asking for 3.4 refuses Eigen 5, which serves as well.
  find_package(Eigen3 CONFIG QUIET)
  if(Eigen3_FOUND AND Eigen3_VERSION VERSION_LESS 3.4)
    message(FATAL_ERROR
            "loraplus: Eigen ${Eigen3_VERSION} in ${Eigen3_DIR} is too old.\n${loraplus_eigen_advice}")
  elseif(NOT Eigen3_FOUND)
    loraplus_fetch(Eigen3 Eigen/Core https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz
                   8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72
                   "${loraplus_eigen_advice}\n or -DLORAPLUS_EIGEN_INCLUDE_DIR=<the folder that holds Eigen/Core>")
    loraplus_import(Eigen3::Eigen "${Eigen3_SOURCE_DIR}")
  endif()
endif()

if(WIN32 AND LORAPLUS_IO STREQUAL "AUTO")
  message(STATUS "loraplus::io is not there: it uses the files of POSIX")
  set(LORAPLUS_IO OFF)
elseif(WIN32 AND LORAPLUS_IO)
  message(FATAL_ERROR "loraplus::io is not there on Windows yet: it uses the files of POSIX")
endif()
if(LORAPLUS_IO AND NOT TARGET nlohmann_json::nlohmann_json)
  find_package(nlohmann_json CONFIG QUIET)
  if(nlohmann_json_FOUND)
    # its target is there
  elseif(LORAPLUS_IO STREQUAL "AUTO")
    message(STATUS "loraplus::io is not there: it needs nlohmann_json (Debian: nlohmann-json3-dev)")
  else()
    loraplus_fetch(nlohmann_json include/nlohmann/json.hpp https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
                   d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d
                   "${loraplus_json_advice}\n or do without files: -DLORAPLUS_IO=OFF")
    loraplus_import(nlohmann_json::nlohmann_json "${nlohmann_json_SOURCE_DIR}/include")
  endif()
endif()
