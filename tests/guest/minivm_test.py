#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""minivm's driver over a real kernel's devices: minivm_test.py MINIVM.

Exits with 126, as run-in-guest does, where there can be no guest.
"""

import json
import pathlib
import subprocess
import sys
import unittest

RUN = pathlib.Path(__file__).with_name("run-in-guest")
NO_GUEST = 126
MINIVM = ""


class OverTheKernel(unittest.TestCase):
    def report(self, modules, *devices):
        """What a VM that runs for two seconds reports."""
        result = subprocess.run(
            [RUN, "-r", "512", "-t", "120", "-m", modules, MINIVM, "run",
             "--memory", "32M", "--guest", "driver", "--workload",
             "verify,size=16M,seconds=2", "--json", *devices],
            capture_output=True, check=False, text=True)
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])
        report = json.loads(result.stdout.splitlines()[-1])
        self.assertEqual((report["faults"], report["state"]), (0, "ended"))
        return report

    def test_a_simulated_vdpa_disk(self):
        report = self.report("vdpa_sim_blk", "--disk", "vdpa=/dev/vhost-vdpa-0")
        self.assertGreater(report["writes"], 0)
        self.assertGreater(report["verified"], 0)

    def test_a_net_of_vhost_net(self):
        report = self.report("vhost_net tun", "--net", "kernel=tap0")
        self.assertGreater(report["frames_received"], 0)
        self.assertEqual(report["frame_faults"], 0)

    def test_both_at_once(self):
        report = self.report("vdpa_sim_blk vhost_net tun", "--disk",
                             "vdpa=/dev/vhost-vdpa-0", "--net", "kernel=tap0")
        self.assertGreater(report["writes"], 0)
        self.assertGreater(report["frames_received"], 0)


if __name__ == "__main__":
    MINIVM = sys.argv.pop(1)
    prepared = subprocess.run([RUN, "--prepare"], capture_output=True, check=False)
    if prepared.returncode == NO_GUEST:
        sys.stderr.buffer.write(prepared.stderr)
        sys.exit(NO_GUEST)
    unittest.main()
