#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# initrd.sh KERNEL WORK MODULES PROGRAMS BIN [ARGUMENT...]: makes WORK/initrd,
# for the kernel in the folder KERNEL: BIN and PROGRAMS, one a line, with their
# libraries, MODULES with what they need, busybox and init.  Arguments reach BIN
# unchanged.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
kernel=$1 work=$2 modules=$3 programs=$4 binary=$5
shift 5
version=$(<"$kernel/version")
root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,tmp,run/modules}

fail() {
  echo "run-in-guest: $*" >&2
  exit 1
}

# add_program FILE PLACE: with the libraries and the loader it needs, at their
# places.  Without debug information: it would be most of the guest's memory.
add_program() {
  local needed library
  [[ -f $1 && -x $1 ]] || fail "$1: no such program"
  install -D -m 755 "$1" "$root$2"
  strip --strip-debug "$root$2" 2>/dev/null || true  # A script has none.
  needed=$(ldd "$1" 2>/dev/null || true)
  [[ $needed != *"not found"* ]] ||
    fail "$1: $(grep -m 1 'not found' <<<"$needed" | xargs)"
  for library in $(grep -oE '/[^ ]+ \(0x' <<<"$needed" | cut -d ' ' -f 1); do
    install -D -m 755 "$library" "$root$library"
  done
}

# add_module NAME: and before it what it depends on.
order=()
declare -A loaded
add_module() {
  local line file
  line=$(modprobe -C /dev/null -d "$kernel" -S "$version" --show-depends "$1" \
    2>/dev/null) || fail "kernel $version has no module $1"
  while read -r what file _; do
    # "builtin" needs nothing.
    [[ $what == insmod && ! ${loaded[$file]-} ]] || continue
    loaded[$file]=1
    cp "$file" "$root/run/modules/"
    order+=("${file##*/}")
  done <<<"$line"
}

devices=()
for module in $modules; do
  add_module "$module"
  [[ $module != vdpa_sim_* ]] || devices+=("$module")
done
if ((${#devices[@]})); then
  add_module vhost_vdpa
  vdpa=$(command -v vdpa) || fail "vdpa (iproute2) is not installed"
  add_program "$vdpa" /bin/vdpa
fi
while read -r program; do
  [[ -z $program ]] || add_program "$program" "/bin/$(basename "$program")"
done <<<"$programs"
add_program "$binary" /run/bin
install -m 755 "$kernel/busybox" "$root/bin/busybox"
install -m 755 "$here/init" "$root/init"
printf '%s\n' ${order[@]+"${order[@]}"} >"$root/run/order"
printf '%s\n' ${devices[@]+"${devices[@]}"} >"$root/run/devices"
{
  printf 'set --'
  for argument; do
    printf " '%s'" "${argument//\'/\'\\\'\'}"
  done
} >"$root/run/arguments"

cd "$root"
find . | cpio -o -H newc --quiet >../initrd
cd ..
rm -rf "$root"
