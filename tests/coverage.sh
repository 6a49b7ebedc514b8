#!/bin/sh
# sh tests/coverage.sh      the share of the lines of include/ that the tests run
# Builds and runs the tests by the preset coverage; prints the lines of each header that none runs, and fails if
# less than 97 % of all are run. On Debian and Ubuntu it first installs what is missing.
set -eu
cd "$(dirname "$0")/.."

sh .ci/install.sh g++ cmake make libeigen3-dev catch2 nlohmann-json3-dev gcovr
cmake --workflow --preset coverage
gcovr --root . --filter include/ --gcov-ignore-parse-errors --fail-under-line 97 build/coverage
