#!/bin/sh
# sh tests/fuzz/run.sh [SECONDS]      600 unless given
# Feeds the readers of files with what libFuzzer makes up, each for so long, beginning with the corpus
# that the ordinary tests read; what it finds new is in build/fuzz.
set -eu
cd "$(dirname "$0")/../.."

seconds=${1:-600}
sh .ci/install.sh clang cmake make libeigen3-dev nlohmann-json3-dev libclang-rt-dev
cmake -S tests/fuzz -B build/fuzz -DCMAKE_CXX_COMPILER=clang++
cmake --build build/fuzz --parallel 2
pids=
for target in safetensors peft_config; do
  mkdir -p "build/fuzz/corpus/$target"
  build/fuzz/fuzz_$target -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=512 \
    -artifact_prefix=build/fuzz/ "build/fuzz/corpus/$target" "tests/golden/fuzz/$target" \
    >"build/fuzz/$target.log" 2>&1 &
  pids="$pids $!"
done
failed=0
for pid in $pids; do
  wait "$pid" || failed=1
done
tail -n 3 build/fuzz/*.log
exit $failed
