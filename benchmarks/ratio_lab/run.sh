#!/bin/sh
# Builds the laboratory and runs it with all options given. On Debian and Ubuntu it first installs
# what is missing.
#
#   sh benchmarks/ratio_lab/run.sh reproduce --budget 60s     the theory, and a first look
#   sh benchmarks/ratio_lab/run.sh reproduce --budget 30m     all of docs/ratio_lab
#   sh benchmarks/ratio_lab/run.sh --help
set -eu

# --out is relative to where the user is, the sources to where this script is.
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)

sh "$root/.ci/install.sh" g++ cmake make libeigen3-dev libcli11-dev nlohmann-json3-dev zlib1g-dev \
  --optional gnuplot-nox dataset-fashion-mnist
(
  cd "$root"
  cmake --preset release -DLORAPLUS_BUILD_BENCHMARKS=ON
  cmake --build --preset release --target ratio_lab
) >&2

exec "$root/build/release/benchmarks/ratio_lab/ratio_lab" "$@"
