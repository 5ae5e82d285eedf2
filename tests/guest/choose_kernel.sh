#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# choose_kernel.sh SERIES FLAVOUR: reads what apt-cache madison says of the
# packages of a kernel and prints "VERSION ABI IMAGE" of the newest one that
# has an image, headers, kbuild and source of one version.  Debian signs an
# image days after the source is there; the unsigned one comes with it and
# boots as well.
#
# Where there is none it says what the newest lacks, with exit status 1.
set -euo pipefail
awk -F ' *[|] *' -v series="$1" -v flavour="$2" '
  { sub(/^ */, "", $1); has[$1, $2] = 1 }
  $1 ~ "^linux-headers-.*-" flavour "$" {
    abi = $1
    sub(/^linux-headers-/, "", abi)
    sub("-" flavour "$", "", abi)
    versions[abi, $2] = 1
  }
  END {
    for (key in versions) {
      split(key, part, SUBSEP)
      abi = part[1]
      version = part[2]
      image = "linux-image-" abi "-" flavour
      if (!((image, version) in has)) image = image "-unsigned"
      needed[1] = image
      needed[2] = "linux-headers-" abi "-common"
      needed[3] = "linux-kbuild-" series
      needed[4] = "linux-source-" series
      lacks = ""
      for (i = 1; i <= 4; ++i)
        if (!((needed[i], version) in has)) lacks = lacks " " needed[i]
      print (lacks ? "lacks" : "whole"), version, abi, image lacks
    }
  }' | sort -k 1,1 -k 2,2V | tail -n 1 | {
  # "whole" sorts behind "lacks".
  what='' lacks=''
  read -r what version abi image lacks || true
  case $what in
    whole) echo "$version $abi $image" ;;
    lacks)
      echo "no kernel is there as a whole; linux $version lacks $lacks" >&2
      exit 1
      ;;
    *)
      echo "no linux-headers-$1.*-$2 in the package lists" >&2
      exit 1
      ;;
  esac
}
