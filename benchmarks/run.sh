#!/bin/sh
# sh benchmarks/run.sh [compiler [flags [short]]]      g++ and -march=native, unless given
# Builds the benchmarks, runs them with their repetitions interleaved, and writes tables and the
# roofline picture from what they measured: build/benchmarks/<compiler><flags>/. Some six minutes;
# with "short" one, for the first table alone.
set -eu
cd "$(dirname "$0")/.."

compiler=${1:-g++}
flags=${2:--march=native}
short=${3:+1024x1024|4096x4096.*/n:8$|rows:1024/r:8/n:128}
sh .ci/install.sh g++ cmake make libeigen3-dev libbenchmark-dev python3 --optional gnuplot-nox
build=build/benchmarks/$compiler$(printf %s "$flags" | tr -d ' ')
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$compiler" \
  -DCMAKE_CXX_FLAGS="$flags" -DLORAPLUS_BUILD_TESTS=OFF -DLORAPLUS_BUILD_EXAMPLES=OFF
cmake --build "$build" --parallel 2
for program in frozen_products low_rank_products training_step; do
  "$build/benchmarks/$program" --benchmark_enable_random_interleaving=true \
    --benchmark_filter="${short:-.}" --benchmark_repetitions=5 \
    --benchmark_report_aggregates_only=true --benchmark_min_time=0.03 \
    --benchmark_out="$build/$program.json" --benchmark_out_format=json
done
python3 benchmarks/report.py "$build" ${3:+--short}
