#!/bin/sh
# Installs what is missing (Debian, Ubuntu), builds the tests and the examples and runs every test.
set -eu
cd "$(dirname "$0")/.."

sh .ci/install.sh g++ cmake make libeigen3-dev catch2 libcli11-dev nlohmann-json3-dev zlib1g-dev libcsv-dev
cmake --workflow --preset dev
