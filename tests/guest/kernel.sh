#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# kernel.sh DIR: fills DIR with what a guest boots:
#   version       the kernel's, as uname -r says it
#   vmlinux       its ELF image
#   lib/modules   its modules, and the ones that modules.sh adds
#   busybox       a static one
#
# Everything is from the distribution's packages, unpacked and not installed.
# The package lists are its own, fetched anew, so that neither root nor an
# earlier apt-get update is needed.  The last line on stderr says what is
# missing where it fails.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
series=6.1
flavour=cloud-amd64

fail() {
  echo "$*" >&2
  exit 1
}
# not_here WORDS...: there is no kernel to be had here.
not_here() {
  echo "$*" >&2
  exit 2
}

[[ $(dpkg --print-architecture 2>/dev/null) == amd64 ]] ||
  not_here "the guest's kernel is Debian's for amd64"
mkdir -p "$1"
out=$(realpath "$1")
work=$out/work
mkdir -p "$work"/{debs,lists/partial,cache/archives/partial,root}

# apt TOOL ARGUMENTS...: with lists and a cache that nobody else uses.
apt() {
  "$1" -qq -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" \
    -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 \
    -o Acquire::Languages=none -o Acquire::Retries=1 \
    -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "${@:2}"
}

# apt_cause LOG: the first thing apt complained about.
apt_cause() {
  sed -n 's/^[EW]: //p' "$1" | head -n 1 | grep . || echo "apt-get failed"
}

# madison: what versions there are of everything that makes a kernel.
madison() {
  apt apt-cache pkgnames linux- | grep -E \
    "^linux-(image|headers|source|kbuild)-$series(\.0-[0-9]+-|\$)" |
    xargs -r apt-cache -o Dir::State::lists="$work/lists" \
      -o Dir::Cache="$work/cache" madison
}

# fetch PACKAGE=VERSION...: into debs.
fetch() {
  (cd "$work/debs" && apt apt-get download "$@" >../log 2>&1) ||
    not_here "$(apt_cause "$work/log")"
}

# unpack NAME: the package linux-.. whose file begins so, into root.
unpack() {
  local deb
  deb=$(echo "$work/debs/${1}_"*.deb)
  dpkg-deb -x "$deb" "$work/root" || fail "$1: cannot be unpacked"
}

# elf_image VMLINUZ: the ELF image in it, which QEMU enters directly.  The
# guest would take longer to decompress it than to boot.
elf_image() {
  local offset
  offset=$(LC_ALL=C grep -aobm 1 -P '\x02\x21\x4c\x18' "$1" |
    head -n 1 | cut -d : -f 1)
  [[ $offset ]] || fail "${1##*/}: not compressed with LZ4"
  # What follows the payload is no LZ4 frame: lz4 writes all and complains.
  tail -c "+$((offset + 1))" "$1" | lz4 -dc 2>/dev/null >"$out/vmlinux" || true
  [[ $(head -c 4 "$out/vmlinux") == $'\x7fELF' ]] ||
    fail "${1##*/}: no ELF image in it"
}

apt apt-get update >"$work/log" 2>&1 || not_here "$(apt_cause "$work/log")"
if ! chosen=$(madison | "$here/choose_kernel.sh" "$series" "$flavour" 2>&1); then
  # A mirror that cannot be reached is only a warning to apt-get update.
  ! grep -q '^[EW]: ' "$work/log" || not_here "$(apt_cause "$work/log")"
  not_here "$chosen"
fi
read -r package_version abi image <<<"$chosen"
version=$abi-$flavour
fetch {"$image","linux-headers-$version","linux-headers-$abi-common"}="$package_version" \
  linux-{kbuild,source}-"$series=$package_version" busybox-static
for package in "$image" "linux-headers-$version" "linux-headers-$abi-common" \
  "linux-kbuild-$series" busybox-static; do
  unpack "$package"
done

elf_image "$work/root/boot/vmlinuz-$version"
install -m 755 "$work/root/bin/busybox" "$out/busybox"
mkdir -p "$out/lib"
mv "$work/root/lib/modules" "$out/lib/modules"
rm -f "$out/lib/modules/$version"/{build,source}
"$here/modules.sh" "$work" "$version" "$out/lib/modules/$version/updates"
PATH=$PATH:/usr/sbin:/sbin depmod -b "$out" "$version" ||
  fail "depmod failed for $version"
echo "$version" >"$out/version"
rm -rf "$work"
