#!/bin/sh
# sh tests/mutation/run.sh [PATTERN [compiler]]      every change and clang++, unless given
# Breaks the library on purpose, one change of changes.txt at a time (those whose line matches the
# extended regular expression PATTERN), and tells which changes no test notices: "killed" is a change
# with which a test fails, "SURVIVED" one with which all pass, "invalid" one that says nothing, since
# its text does not stand in the file exactly once or what it makes does not compile. Fails unless all
# are killed. Changes nothing but build/mutation, where results.txt and the output of every change are.
#
# A line of changes.txt is   header :: text => other text :: tests   where tests are the files of
# tests/ without _test.cpp that are to notice it. Empty lines and those with # are passed over.
# First the tests are run without any change, unless CHECK_TESTS=no. All takes half an hour of one core.
set -eu
cd "$(dirname "$0")/../.."

pattern=${1:-.}
compiler=${2:-clang++}
limit=300 # seconds of processor time for a test: what does not end fails
sh .ci/install.sh g++ clang libeigen3-dev catch2
eigen=${EIGEN_FLAGS:-$(pkg-config --cflags eigen3 2>/dev/null || echo -I/usr/include/eigen3)}
out=build/mutation
rm -rf "$out"
mkdir -p "$out/folders"
cp -r include "$out/include"

# What all tests have in common, and no line of changes.txt changes, is compiled once.
cat >"$out/common.hpp" <<END
#define LORAPLUS_GOLDEN_DIR "$PWD/tests/golden"
#define LORAPLUS_TEST_FOLDER "$PWD/$out/folders"
#include <Eigen/Dense>
#include <loraplus/core/parameter.hpp>
#include <random>
#include <support/catch.hpp>
END
compile() {
  # shellcheck disable=SC2086  # words of flags
  "$compiler" -std=c++20 -O0 -pthread $eigen -Itests "-I$out/include" "$@"
}
case $compiler in *clang*) precompiled=pch ;; *) precompiled=gch ;; esac
compile -x c++-header "$out/common.hpp" -o "$out/common.hpp.$precompiled"
compile -c tests/support/main.cpp -o "$out/main.o"

# Builds a test against the headers in $out, and runs it. 1: it fails, 2: it does not compile.
run_test() {
  compile -include "$out/common.hpp" "tests/$1_test.cpp" "$out/main.o" -o "$out/test" || return 2
  # shellcheck disable=SC3045  # dash, bash and busybox have it
  (ulimit -t "$limit" && exec "$out/test" --abort) || return 1
}

# Puts $new in the place of $old in a header; fails unless $old stands there exactly once.
change_header() {
  old=$old new=$new awk '
    { text = text $0 "\n" }
    END {
      at = index(text, ENVIRON["old"])
      rest = substr(text, at + length(ENVIRON["old"]))
      if (at == 0 || index(rest, ENVIRON["old"]) > 0) exit 1
      printf "%s%s%s", substr(text, 1, at - 1), ENVIRON["new"], rest
    }' "include/loraplus/$1" >"$out/changed.hpp" && mv "$out/changed.hpp" "$out/include/loraplus/$1"
}

grep -v '^ *\(#\|$\)' tests/mutation/changes.txt | grep -E -e "$pattern" >"$out/changes.txt"
# A test that fails as it is would notice everything.
for test in $(sed 's/.* :: //' "$out/changes.txt" | tr ' ' '\n' | sort -u); do
  [ "${CHECK_TESTS-yes}" = yes ] || break
  run_test "$test" >"$out/log" 2>&1 || {
    cat "$out/log"
    echo "run.sh: tests/${test}_test.cpp fails without any change" >&2
    exit 1
  }
done

number=0
while IFS= read -r line; do
  number=$((number + 1))
  header=${line%% :: *}
  tests=${line##* :: }
  change=${line#* :: }
  change=${change% :: *}
  old=${change%% => *}
  new=${change#* => }
  verdict=SURVIVED
  if change_header "$header"; then
    for test in $tests; do
      status=0
      run_test "$test" >"$out/$number.log" 2>&1 || status=$?
      [ $status -ne 1 ] || verdict=killed
      [ $status -ne 2 ] || verdict=invalid
      [ $status -eq 0 ] || break
    done
  else
    verdict=invalid
  fi
  cp "include/loraplus/$header" "$out/include/loraplus/$header"
  printf '%-8s %3d %s\n' "$verdict" "$number" "$line" | tee -a "$out/results.txt"
done <"$out/changes.txt"

count() {
  grep -c "^$1" "$out/results.txt" || true
}
echo "$number changes: $(count killed) killed, $(count SURVIVED) survived, $(count invalid) invalid"
[ "$(count killed)" -eq "$number" ]
