#!/bin/sh
# Builds and runs the example finetune_mlp: pretrains a small network, then adapts it by full
# fine-tuning, LoRA and LoRA+. On Debian and Ubuntu it first installs what is missing.
#
#   sh examples/run.sh                    the default run, about half a minute on two cores
#   sh examples/run.sh --task invert      all options go to the program; see --help
#
# The results are in build/finetune_mlp, unless --out says otherwise.
set -eu

# --out and --data are relative to where the user is, the sources to where this script is.
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
dataset=/usr/share/datasets/fashion-mnist

# Whether an option, --name or --name=value, is among the arguments.
is_given() {
  name=$1
  shift
  for argument; do
    case $argument in "$name" | "$name"=*) return 0 ;; esac
  done
  return 1
}

sh "$root/.ci/install.sh" g++ cmake make libeigen3-dev libcli11-dev nlohmann-json3-dev zlib1g-dev \
  --optional gnuplot-nox dataset-fashion-mnist
(
  cd "$root"
  cmake --preset release -DLORAPLUS_BUILD_BENCHMARKS=OFF
  cmake --build --preset release --target finetune_mlp
) >&2

is_given --out "$@" || set -- --out "$root/build/finetune_mlp" "$@"
if ! is_given --data "$@" && [ ! -d "$dataset" ]; then
  echo "run.sh: Fashion-MNIST is not in $dataset: taking --data synthetic instead" >&2
  set -- --data synthetic "$@"
fi
exec "$root/build/release/examples/finetune_mlp" "$@"
