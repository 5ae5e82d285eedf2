#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vhostctl over a real kernel's devices: vhostctl_test.py VHOSTCTL.

Exits with 126, as run-in-guest does, where there can be no guest.
"""

import json
import pathlib
import subprocess
import sys
import unittest

RUN = pathlib.Path(__file__).with_name("run-in-guest")
VHOSTCTL = ""


def vhostctl(modules, *arguments):
    return subprocess.run([RUN, "-r", "320", "-m", modules, VHOSTCTL, *arguments],
                          capture_output=True, check=False, text=True)


class OverTheKernel(unittest.TestCase):
    def document(self, modules, *arguments):
        result = vhostctl(modules, *arguments, "--json")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        return json.loads(result.stdout)

    def test_info_of_vhost_net(self):
        out = self.document("vhost_net", "info", "--kernel", "/dev/vhost-net")
        self.assertEqual(out["device"], "net")
        self.assertEqual(out["queues"], 2)
        self.assertEqual(out["slots"], 64)
        self.assertLessEqual({"MRG_RXBUF", "EVENT_IDX", "LOG_ALL"},
                             set(out["features"]))
        self.assertNotIn("protocol_features", out)

    def test_info_of_vhost_vsock(self):
        out = self.document("vhost_vsock", "info", "--kernel", "/dev/vhost-vsock")
        self.assertEqual(out["device"], "vsock")
        self.assertEqual(out["queues"], 2)
        self.assertIn("SEQPACKET", out["features"])

    def test_info_of_vhost_scsi(self):
        out = self.document("vhost_scsi", "info", "--kernel", "/dev/vhost-scsi")
        self.assertEqual(out["device"], "scsi")
        self.assertEqual(out["abi_version"], 1)
        self.assertIn("HOTPLUG", out["features"])

    def test_net_echo_over_a_tap(self):
        out = self.document("vhost_net tun", "net", "echo",
                            "--kernel", "/dev/vhost-net", "--tap", "tap0",
                            "--frames", "500")
        self.assertEqual((out["sent"], out["arrived"], out["returned"]),
                         (500, 500, 500))
        self.assertEqual((out["damaged"], out["repeated"]), (0, 0))

    def test_vsock_ping(self):
        out = self.document("vhost_vsock", "vsock", "ping", "--kernel",
                            "/dev/vhost-vsock", "--cid", "77", "--count", "100")
        self.assertEqual((out["cid"], out["sent"], out["returned"]),
                         (77, 100, 100))
        self.assertEqual(out["bytes"], 6400)
        self.assertLess(0, out["min_us"])

    def test_what_is_missing_is_named(self):
        result = vhostctl("", "vsock", "ping", "--kernel", "/dev/vhost-vsock",
                          "--cid", "77")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertRegex(result.stderr, "^vhostctl: UNAVAILABLE: .*/dev/vhost-vsock")


if __name__ == "__main__":
    VHOSTCTL = sys.argv.pop(1)
    prepared = subprocess.run([RUN, "--prepare"], capture_output=True, check=False)
    if prepared.returncode == 126:
        sys.stderr.buffer.write(prepared.stderr)
        sys.exit(126)
    unittest.main(verbosity=2)
