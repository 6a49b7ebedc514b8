#!/bin/sh
# Builds the example personalise and runs it with all options given; without any, on a network and rows
# of its own, examples/personalise/data. On Debian and Ubuntu it first installs what is missing.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)

sh "$root/.ci/install.sh" g++ cmake make libeigen3-dev libcli11-dev nlohmann-json3-dev libcsv-dev
(
  cd "$root"
  cmake --preset release -DLORAPLUS_BUILD_BENCHMARKS=OFF
  cmake --build --preset release --target personalise
) >&2

data=$root/examples/personalise/data
[ $# -gt 0 ] || set -- "$data/model.safetensors" "$data/rows.csv" --out "$root/build/personalise"
exec "$root/build/release/examples/personalise" "$@"
