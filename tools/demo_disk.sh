#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A real disk back-end, driven through the library and checked from both sides.
#
#   tools/demo_disk.sh BIN_DIR
#
# BIN_DIR holds vhostctl and vhost-model-blk.  Exit status 0: everything that
# was written was read back, through the device and in the file.
set -euo pipefail

if (($# != 1)); then
  echo "usage: tools/demo_disk.sh BIN_DIR" >&2
  exit 2
fi
bin=$(cd "$1" && pwd)
queues=4
dir=$(mktemp -d "${TMPDIR:-/tmp}/vhostdev-demo-XXXXXX")
daemon=

stop_daemon() {
  [[ -z $daemon ]] && return
  kill "$daemon" 2>/dev/null || true
  wait "$daemon" 2>/dev/null || true
  daemon=
}
trap 'stop_daemon; rm -rf "$dir"' EXIT

say() { printf '\n== %s\n' "$*"; }

fail() {
  echo "demo: $*" >&2
  exit 1
}

# await SOCKET: until the back-end listens there; ten seconds at most.
await() {
  local tries
  for ((tries = 0; tries < 1000; tries++)); do
    [[ -S $1 ]] && return
    kill -0 "$daemon" 2>/dev/null || fail "the back-end ended"
    sleep 0.01
  done
  fail "the back-end does not listen"
}

# check_file IMAGE SEED SIZE: the other side's view.  The kernel's page cache is
# one for all processes, so this is what the back-end wrote.
check_file() {
  [[ $(stat -c %s "$1") == "$3" ]] || fail "the file's size has changed"
  [[ $(head -c 8 "$1") == vpattern ]] || fail "no pattern in the file"
  "$bin/vhostctl" blk check-file --input "$1" --seed "$2"
}

# drive SOCKET IMAGE SEED SIZE
drive() {
  say "what it offers (vhostctl info)"
  "$bin/vhostctl" info --socket "$1"
  say "what connecting, starting and stopping cost (vhostctl bench start)"
  "$bin/vhostctl" bench start --socket "$1" --queues "$queues"
  say "pattern over the whole disk through $queues queues (vhostctl blk verify)"
  "$bin/vhostctl" blk verify --socket "$1" --queues "$queues" --seed "$3"
  say "the same in the file, without the device"
  check_file "$2" "$3" "$4"
  "$bin/vhostctl" blk read --socket "$1" --queues "$queues" --output "$dir/copy"
  cmp "$dir/copy" "$2"
  echo "a copy read through the device is identical to the file"
  rm "$dir/copy"
}

size=$((256 << 20))
command -v qemu-storage-daemon >/dev/null ||
  fail "qemu-storage-daemon is not installed (Debian: qemu-system-common)"
truncate -s "$size" "$dir/disk.img"
say "qemu-storage-daemon with a disk of $((size >> 20)) MiB"
qemu-storage-daemon \
  --blockdev "driver=file,node-name=disk,filename=$dir/disk.img" \
  --export "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=$dir/qemu.sock,writable=on,num-queues=$queues" &
daemon=$!
await "$dir/qemu.sock"
drive "$dir/qemu.sock" "$dir/disk.img" 1 "$size"
stop_daemon
rm "$dir/disk.img"

size=$((64 << 20))
truncate -s "$size" "$dir/disk.img"
say "vhost-model-blk with a disk of $((size >> 20)) MiB"
"$bin/vhost-model-blk" --socket-path="$dir/model.sock" \
  --blk-file="$dir/disk.img" --queues="$queues" &
daemon=$!
await "$dir/model.sock"
drive "$dir/model.sock" "$dir/disk.img" 2 "$size"

say "all of it is right"
