#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# trixie.sh DIR: unpacks the packages of trixie.sha256, exactly those, into
# DIR/root.  They are back-ends newer than Debian 12's and the libraries these
# need; nothing is installed.  Where that fails, DIR/why says why, for the
# tests that are then skipped, and the exit status is 1.
set -uo pipefail
list=$(realpath "$(dirname "$0")/trixie.sha256")
mkdir -p "$1" && cd "$1" || exit 1

fail() {
  rm -rf new log package.deb*
  echo "$*" | tee why >&2
  exit 1
}

cmp -s "$list" root/list && exit 0
rm -rf root new why
[[ $(dpkg --print-architecture 2>/dev/null) == amd64 ]] ||
  fail "the packages of trixie.sha256 are for Debian on amd64"
mirror=${VHOSTDEV_MIRROR:-http://deb.debian.org/debian}
mkdir new
while read -r sum path; do
  # Follows apt's proxy, checks the sum, leaves no file that is wrong.
  /usr/lib/apt/apt-helper -qq -o Acquire::Retries=1 \
    -o Acquire::http::Timeout=20 -o APT::Sandbox::User="$(id -un)" \
    download-file "$mirror/$path" package.deb "SHA256:$sum" >log 2>&1 ||
    fail "$(sed -n 's/^E: //p' log | head -n 1 | grep . || echo "$path: no download")"
  dpkg-deb -x package.deb new || fail "$path: cannot be unpacked"
  rm package.deb
done <"$list"
cp "$list" new/list
rm -f log
mv new root
