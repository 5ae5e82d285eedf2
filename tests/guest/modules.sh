#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# modules.sh WORK VERSION DIR: builds the vDPA modules that Debian's kernel
# VERSION leaves out (CONFIG_VDPA is not set) from Debian's own source, into
# DIR.  WORK/debs has the source package, WORK/root the unpacked headers.
set -euo pipefail
work=$(realpath "$1") version=$2
headers=$work/root/usr/src/linux-headers-$version
modules=$work/modules
modules_wanted=(vdpa vdpa_sim vdpa_sim_net vdpa_sim_blk vduse vhost_vdpa vringh)

# The headers expect to be installed.
sed -i "s#^include /usr/src#include $work/root/usr/src#" "$headers/Makefile"

mkdir -p "$modules" "$3"
dpkg-deb --fsys-tarfile "$work/debs"/linux-source-*.deb |
  tar -x -O --wildcards './usr/src/linux-source-*.tar.xz' |
  tar -xJ -C "$modules" --strip-components=2 --wildcards \
    'linux-source-*/drivers/vdpa/vdpa.c' \
    'linux-source-*/drivers/vdpa/vdpa_sim/*.[ch]' \
    'linux-source-*/drivers/vdpa/vdpa_user/*.[ch]' \
    'linux-source-*/drivers/vhost/vdpa.c' \
    'linux-source-*/drivers/vhost/vhost.h' \
    'linux-source-*/drivers/vhost/vringh.c'

cat >"$modules/Kbuild" <<'END'
obj-m := vdpa.o vdpa_sim.o vdpa_sim_net.o vdpa_sim_blk.o
obj-m += vduse.o vhost_vdpa.o vringh.o
vdpa-y := vdpa/vdpa.o
vdpa_sim-y := vdpa/vdpa_sim/vdpa_sim.o
vdpa_sim_net-y := vdpa/vdpa_sim/vdpa_sim_net.o
vdpa_sim_blk-y := vdpa/vdpa_sim/vdpa_sim_blk.o
vduse-y := vdpa/vdpa_user/vduse_dev.o vdpa/vdpa_user/iova_domain.o
vhost_vdpa-y := vhost/vdpa.o
vringh-y := vhost/vringh.o
END
log=$work/modules.log
if ! make -C "$headers" M="$modules" -j "$(nproc)" modules >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  echo "the vDPA modules do not build for $version" >&2
  exit 1
fi
for module in "${modules_wanted[@]}"; do
  cp "$modules/$module.ko" "$3/"
done
