#!/bin/sh
# sh benchmarks/compile_time.sh [budget [compiler...]]      1.6 and g++, unless given
# What including the library costs: the seconds of processor time (user) to compile a file with
# nothing but the umbrella, beside one with nothing but <Eigen/Dense>. The two are compiled in turn,
# five times each after one that is not counted; the medians are compared. Fails if a ratio exceeds
# the budget. Eigen is found by pkg-config, or by EIGEN_FLAGS=-I<folder>.
set -eu
cd "$(dirname "$0")/.."

budget=${1:-1.6}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- g++
eigen=${EIGEN_FLAGS:-$(pkg-config --cflags eigen3 2>/dev/null || echo -I/usr/include/eigen3)}
runs=5

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
echo '#include <Eigen/Dense>' >"$scratch/eigen.cpp"
echo '#include <loraplus/loraplus.hpp>' >"$scratch/umbrella.cpp"

# Seconds of user time of the compiler, of which `times` tells in its second line.
seconds() {
  (
    # shellcheck disable=SC2086  # words of flags
    "$1" -std=c++20 -O2 -Iinclude $eigen -c "$scratch/$2.cpp" -o "$scratch/$2.o"
    times
  ) | awk 'NR == 2 { split($1, t, /[ms]/); print t[1] * 60 + t[2] }'
}

median() {
  sort -n "$1" | sed -n "$(((runs + 1) / 2))p"
}

failed=0
for compiler; do
  : >"$scratch/eigen" && : >"$scratch/umbrella"
  for file in eigen umbrella; do
    seconds "$compiler" $file >/dev/null
  done
  for _ in $(seq $runs); do
    for file in eigen umbrella; do
      seconds "$compiler" $file >>"$scratch/$file"
    done
  done
  awk -v compiler="$compiler" -v eigen="$(median "$scratch/eigen")" \
    -v umbrella="$(median "$scratch/umbrella")" -v budget="$budget" 'BEGIN {
      ratio = umbrella / eigen
      printf "%s: <Eigen/Dense> %.2f s, <loraplus/loraplus.hpp> %.2f s, ratio %.2f (budget %s)\n",
             compiler, eigen, umbrella, ratio, budget
      exit ratio > budget
    }' || failed=1
done
exit $failed
