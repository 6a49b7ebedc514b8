#!/bin/sh
# Adapters and networks go from PyTorch with PEFT to loraplus and back, and what the example personalise
# saves is shown by its predict.py, see interop.py. On Debian and Ubuntu it first installs what is
# missing, and PyTorch and PEFT from PyPI into a virtual environment.
#
# Everything it makes is in build/interop, or in INTEROP_DIR if that is set; INTEROP_VENV names a virtual
# environment that has PyTorch, PEFT and safetensors already.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
made=${INTEROP_DIR:-$root/build/interop}
venv=${INTEROP_VENV:-$made/venv}

sh "$root/.ci/install.sh" g++ cmake make libeigen3-dev libcli11-dev nlohmann-json3-dev libcsv-dev
if [ -z "${INTEROP_VENV:-}" ] && [ ! -e "$venv/complete" ]; then
  sh "$root/.ci/install.sh" python3 python3-venv
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install torch peft safetensors >&2
  : >"$venv/complete"  # an installation that was interrupted is taken up again
fi
{
  cmake -S "$root/tests/interop" -B "$made/cmake"
  cmake --build "$made/cmake" --target loraplus_interop loraplus_family personalise
} >&2

exec "$venv/bin/python" "$root/tests/interop/interop.py" \
  --program "$made/cmake/loraplus_interop" --family "$made/cmake/loraplus_family" \
  --personalise "$made/cmake/loraplus/examples/personalise" \
  --out "$made/cases" "$@"
