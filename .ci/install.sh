#!/bin/sh
# sh .ci/install.sh PACKAGE... [--optional PACKAGE...]
# Installs those of the Debian or Ubuntu packages that are missing. Without an optional one it goes
# on; on other systems it says what to install and leaves the rest to the build.
set -eu

is_installed() {
  case $1 in
    gnuplot-nox) command -v gnuplot >/dev/null 2>&1 && return ;;
    *) command -v "$1" >/dev/null 2>&1 && return ;;  # a tool, from wherever
  esac
  dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'
}

required=
optional=
list=required
for package in "$@"; do
  if [ "$package" = --optional ]; then
    list=optional
  elif ! is_installed "$package"; then
    if [ "$list" = required ]; then required="$required $package"; else optional="$optional $package"; fi
  fi
done
[ -n "$required$optional" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
  echo "loraplus: no apt-get here; install what these Debian packages hold:$required$optional" >&2
  exit 0
fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null 2>&1; then
    echo "loraplus: this needs an administrator: apt-get install$required$optional" >&2
    [ -z "$required" ] && exit 0
    exit 1
  fi
  as_root=sudo
fi

# Installs without questions.
install() {
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

echo "loraplus: installing$required$optional" >&2
$as_root apt-get update -qq >&2 || echo "loraplus: the package lists could not be updated" >&2
if [ -n "$required" ]; then
  # shellcheck disable=SC2086  # each word is a package
  install $required
fi
for package in $optional; do
  install "$package" || echo "loraplus: going on without $package" >&2
done
