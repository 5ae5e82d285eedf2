#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vhostctl over the kernel's simulated vDPA devices: vdpa_vhostctl.py VHOSTCTL.

Exits with 126, as run-in-guest does, where there can be no guest.
"""

import json
import pathlib
import subprocess
import sys
import unittest

RUN = pathlib.Path(__file__).with_name("run-in-guest")
NO_GUEST = 126
VHOSTCTL = ""
BLK, NET = "/dev/vhost-vdpa-0", "/dev/vhost-vdpa-1"


def vhostctl(*arguments):
    result = subprocess.run(
        [RUN, "-m", "vdpa_sim_blk vdpa_sim_net", "-r", "512", "-t", "120",
         VHOSTCTL,
         *arguments], capture_output=True, check=False)
    return result


class Vdpa(unittest.TestCase):
    def expect_success(self, result):
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])

    def test_info_tells_what_a_disk_is(self):
        result = vhostctl("info", "--vdpa", BLK, "--json")
        self.expect_success(result)
        info = json.loads(result.stdout)
        self.assertEqual((info["device"], info["queues"]), ("blk", 1))
        self.assertEqual(info["config"]["capacity"], 0x40000)
        self.assertIn("ACCESS_PLATFORM", info["features"])
        self.assertIn("SUSPEND", info["backend_features"])

    def test_info_tells_the_groups_of_a_network_device(self):
        result = vhostctl("info", "--vdpa", NET)
        self.expect_success(result)
        lines = result.stdout.decode().splitlines()
        for line in ("device: net", "queues: 3", "groups: 2",
                     "address_spaces: 2", "  2: 1", "max_ring_size: 256"):
            self.assertIn(line, lines)

    def test_blk_id(self):
        result = vhostctl("blk", "id", "--vdpa", BLK)
        self.expect_success(result)
        self.assertEqual(result.stdout, b"vdpa_blk_sim\n")

    def test_blk_verify_writes_reads_and_compares(self):
        result = vhostctl("blk", "verify", "--vdpa", BLK, "--size", "64M",
                          "--json")
        self.expect_success(result)
        told = json.loads(result.stdout)
        self.assertEqual((told["bytes"], told["mismatches"]), (64 << 20, 0))

    def test_blk_write(self):
        result = vhostctl("blk", "write", "--vdpa", BLK, "--input", "/dev/zero",
                          "--length", "4M", "--json")
        self.expect_success(result)
        self.assertEqual(json.loads(result.stdout)["bytes"], 4 << 20)

    def test_blk_read(self):
        result = vhostctl("blk", "read", "--vdpa", BLK, "--length", "64K")
        self.expect_success(result)
        self.assertEqual(result.stdout, bytes(64 << 10))


if __name__ == "__main__":
    VHOSTCTL = sys.argv.pop(1)
    prepared = subprocess.run([RUN, "--prepare"], capture_output=True, check=False)
    if prepared.returncode == NO_GUEST:
        sys.stderr.buffer.write(prepared.stderr)
        sys.exit(NO_GUEST)
    unittest.main()
