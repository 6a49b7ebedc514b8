#!/bin/sh
# sh benchmarks/size.sh [compiler [flags]]      g++ and none, unless given
# What the main training path (size.cpp) weighs in a program: stripped, static, with -Os, beside a
# program that does nothing, and which headers its code comes from, by the debugging information of
# an unstripped copy. What has none is of the C and C++ runtime libraries. The shares are of what has a
# symbol: tables for unwinding and the like have none.
set -eu
cd "$(dirname "$0")/.."

compiler=${1:-g++}
sh .ci/install.sh g++ libeigen3-dev binutils
eigen=${EIGEN_FLAGS:-$(pkg-config --cflags eigen3 2>/dev/null || echo -I/usr/include/eigen3)}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Builds $1, a source, as $scratch/$2 and, stripped, as $scratch/$2.stripped.
build() {
  # shellcheck disable=SC2086  # words of flags
  "$compiler" -std=c++20 -Os -g1 -DNDEBUG -ffunction-sections -fdata-sections -Iinclude $eigen \
    ${flags-} "$1" -static -Wl,--gc-sections -o "$scratch/$2"
  strip -o "$scratch/$2.stripped" "$scratch/$2"
}

kibibytes() {
  awk -v bytes="$(wc -c <"$1")" 'BEGIN { printf "%.0f KiB", bytes / 1024 }'
}

flags=${2-}
echo 'int main() {}' >"$scratch/empty.cpp"
build "$scratch/empty.cpp" empty
build benchmarks/size.cpp training
echo "the main training path: $(kibibytes "$scratch/training.stripped")" \
  "($(kibibytes "$scratch/empty.stripped") of them an empty program's); $compiler -Os $flags"

# address size type name <tab> file:line; symbols of the same address are one, .bss is not in a file
nm --defined-only -S -C -l -t d --size-sort "$scratch/training" |
  awk -F '\t' '
    {
      split($1, f, " ")
      if (f[3] ~ /[bB]/ || seen[f[1]]++) next
      size = f[2] + 0
      file = $2
      where = "runtime libraries"
      if (match(file, /include\/loraplus\/[a-z]+\//))
        where = "loraplus/" substr(file, RSTART + 17, RLENGTH - 18)
      else if (file ~ /\/Eigen\//) where = "Eigen"
      else if (file ~ /\/c\+\+\//) where = "<standard headers>"
      else if (file ~ /size\.cpp/) where = "size.cpp"
      sum[where] += size
      total += size
      name = $1
      sub(/^[^ ]+ [^ ]+ [^ ]+ /, "", name)
      printf "%d\t%s\t%s\n", size, where, name > sizes
    }
    END {
      print "\n| from | KiB | share |\n|---|--:|--:|"
      for (where in sum)
        printf "| %s | %.1f | %.0f %% |\n", where, sum[where] / 1024, 100 * sum[where] / total | sort
    }' sort="sort -t'|' -k3,3nr" sizes="$scratch/sizes"
echo
echo "The largest of what is not of the runtime libraries:"
echo
echo "| KiB | from | |"
echo "|--:|---|---|"
grep -v 'runtime libraries' "$scratch/sizes" | sort -nr | head -n 12 |
  awk -F '\t' '{
    name = length($3) > 90 ? substr($3, 1, 90) "..." : $3
    gsub(/\|/, "\\|", name)
    printf "| %.1f | %s | `%s` |\n", $1 / 1024, $2, name
  }'
