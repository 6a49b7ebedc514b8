#!/bin/sh
# sh .ci/install.sh PACKAGE... [--optional PACKAGE...]: installs the Debian or Ubuntu packages that
# are missing. An optional one that the system does not know is passed over.
set -eu

missing=
optional=
list=missing
for package in "$@"; do
  if [ "$package" = --optional ]; then
    list=optional
  elif ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
    if [ "$list" = missing ]; then missing="$missing $package"; else optional="$optional $package"; fi
  fi
done
[ -n "$missing$optional" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
  echo "loraplus: no apt-get here; if something is missing below, install what these Debian" >&2
  echo "packages hold:$missing$optional" >&2
  exit 0
fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null 2>&1; then
    echo "loraplus: neither root nor sudo; ask an administrator to install:$missing$optional" >&2
    [ -z "$missing" ] || exit 1
    exit 0
  fi
  as_root=sudo
fi

echo "loraplus: installing$missing$optional" >&2
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq >&2
if [ -n "$missing" ]; then
  # shellcheck disable=SC2086  # a list of packages
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
fi
for package in $optional; do
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >&2 ||
    echo "loraplus: no package $package on this system, going on without" >&2
done
