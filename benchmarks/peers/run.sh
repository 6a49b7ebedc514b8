#!/bin/sh
# One LoRA training step of loraplus beside the same step of PyTorch with PEFT. On Debian and Ubuntu
# it first installs what is missing, and PyTorch and PEFT from PyPI into a virtual environment.
#
#   sh benchmarks/peers/run.sh                        all shapes, one and two threads
#   sh benchmarks/peers/run.sh --shapes 1024x8,mlp    all options go to compare.py; see --help
#
# Everything it makes is in build/peers, or in PEERS_DIR if that is set; PEERS_VENV names a virtual
# environment that has PyTorch and PEFT already.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
made=${PEERS_DIR:-$root/build/peers}
venv=${PEERS_VENV:-$made/venv}

sh "$root/.ci/install.sh" g++ cmake make libeigen3-dev
if [ -z "${PEERS_VENV:-}" ] && [ ! -e "$venv/complete" ]; then
  sh "$root/.ci/install.sh" python3 python3-venv
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install torch peft >&2
  : >"$venv/complete"  # an installation that was interrupted is taken up again
fi
{
  cmake -S "$root/benchmarks/peers" -B "$made/cmake"
  cmake --build "$made/cmake"
} >&2

exec "$venv/bin/python" "$root/benchmarks/peers/compare.py" \
  --program "$made/cmake/loraplus_step" --out "$made" "$@"
