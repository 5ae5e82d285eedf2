#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of run-in-guest: harness_test.py PROBE.

Exits with 126, as run-in-guest does, where there can be no guest.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

RUN = pathlib.Path(__file__).with_name("run-in-guest")
CHOOSE = pathlib.Path(__file__).with_name("choose_kernel.sh")
PROBE = ""


def run(*arguments, **environment):
    return subprocess.run([RUN, *arguments], capture_output=True, check=False,
                          env={**os.environ, **environment})


def noise(seed, size):
    """What probe.cc calls so."""
    out = bytearray()
    for _ in range(size):
        seed = (seed * 1664525 + 1013904223) % 2**32
        out.append(seed >> 24)
    return bytes(out)


class HowItEnds(unittest.TestCase):
    def test_output_arguments_and_status_arrive_unchanged(self):
        arguments = ["print", "", "two words", "it's", '$HOME "\\', "a\nb", "\xe9"]
        result = run(PROBE, *arguments)
        self.assertEqual(result.returncode, 3, result.stderr[-2000:])
        told = b"".join(text.encode() + b"\0" for text in arguments)
        # Not assertEqual: it would print the mebibyte.
        self.assertTrue(result.stdout == noise(1, 1 << 20) + told,
                        f"{len(result.stdout)} bytes of stdout, not the ones sent")
        self.assertTrue(result.stderr == noise(2, 1 << 16),
                        f"{len(result.stderr)} bytes of stderr, not the ones sent")

    def test_a_simulator_gets_a_device_and_status_0_arrives(self):
        result = run("-m", "vdpa_sim_net vdpa_sim_blk vhost_net", "-r", "320",
                     PROBE, "devices")
        self.assertEqual(result.stderr, b"")
        self.assertEqual(result.returncode, 0)
        self.assertEqual(result.stdout.decode().split(),
                         ["/dev/vhost-net", "/dev/vhost-vdpa-0",
                          "/dev/vhost-vdpa-1"])

    def test_other_programs_can_be_run_there(self):
        result = run("-p", PROBE, "/bin/sh", "-c", "guest_probe devices; echo $?")
        self.assertEqual((result.returncode, result.stdout, result.stderr),
                         (0, b"1\n", b""))

    def test_a_signal_is_128_and_its_number(self):
        result = run(PROBE, "signal")
        self.assertEqual((result.returncode, result.stdout, result.stderr),
                         (128 + 11, b"", b""))

    def test_a_program_that_hangs_is_124_and_what_it_said_is_kept(self):
        result = run("-t", "5", PROBE, "hang")
        self.assertEqual(result.returncode, 124)
        self.assertEqual(result.stdout, b"before\n")
        self.assertTrue(result.stderr.endswith(
            b"run-in-guest: not done after 5 s\n"), result.stderr[-2000:])

    def test_a_kernel_that_dies_is_125_and_its_log_is_shown(self):
        result = run(PROBE, "panic")
        self.assertEqual(result.returncode, 125)
        self.assertIn(b"Kernel panic", result.stderr)
        self.assertIn(b"run-in-guest: the guest died without a word",
                      result.stderr)

    def test_a_guest_that_does_not_boot_is_125(self):
        result = run("-r", "32", PROBE, "devices")  # MiB: less than it needs.
        self.assertEqual(result.returncode, 125)
        self.assertTrue(result.stderr.endswith(
            b"run-in-guest: the guest did not boot, 3 times\n"),
            result.stderr[-2000:])


class WhatIsMissing(unittest.TestCase):
    def test_a_module_that_does_not_exist_is_125(self):
        result = run("-m", "no_such_module", PROBE, "devices")
        self.assertEqual(result.returncode, 125)
        self.assertIn(b"has no module no_such_module", result.stderr)

    def test_a_program_that_does_not_exist_is_125(self):
        result = run("/no/such/program")
        self.assertEqual(result.returncode, 125)
        self.assertIn(b"/no/such/program: no such program", result.stderr)

    def test_a_mirror_that_cannot_be_reached_is_126_and_leaves_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            config = pathlib.Path(folder, "apt.conf")
            # Port 9 of the loopback: nobody answers.
            config.write_text('Acquire::http::Proxy "http://127.0.0.1:9";\n'
                              'Acquire::https::Proxy "http://127.0.0.1:9";\n')
            cache = pathlib.Path(folder, "cache")
            result = run(PROBE, "devices", APT_CONFIG=str(config),
                         XDG_CACHE_HOME=str(cache))
            left = [path.name for path in cache.glob("vhostdev/guest/*")]
        self.assertEqual(result.returncode, 126, result.stderr)
        self.assertIn(b"run-in-guest: no kernel: ", result.stderr)
        self.assertIn(b"127.0.0.1", result.stderr)
        self.assertEqual(left, ["lock"])

    def test_a_program_of_the_host_that_is_missing_is_126_and_named(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("bash", "dirname", "realpath"):
                os.symlink(f"/usr/bin/{name}", f"{folder}/{name}")
            result = run(PROBE, "devices", PATH=folder)
        self.assertEqual(result.returncode, 126)
        self.assertEqual(result.stderr, b"run-in-guest: qemu-system-x86_64 "
                         b"is not installed\n")


class WhichKernel(unittest.TestCase):
    """Given {package: versions}."""

    COMMON = ("linux-headers-6.1.0-9-common", "linux-headers-6.1.0-9-cloud-amd64",
              "linux-source-6.1", "linux-kbuild-6.1")

    def choose(self, there):
        lines = [f"{package} | {version} | http://mirror main"
                 for package, versions in there.items() for version in versions]
        return subprocess.run([CHOOSE, "6.1", "cloud-amd64"],
                              input="\n".join(lines), capture_output=True,
                              check=False, text=True)

    def test_the_newest_with_everything_of_one_version_is_taken(self):
        there = {package: ["6.1.99-1"] for package in self.COMMON}
        there["linux-image-6.1.0-9-cloud-amd64"] = ["6.1.99-1"]
        there["linux-image-6.1.0-9-cloud-amd64-unsigned"] = ["6.1.99-1"]
        # Newer, though not in the order of the alphabet, and without kbuild.
        there["linux-image-6.1.0-10-cloud-amd64"] = ["6.1.100-1"]
        there["linux-headers-6.1.0-10-cloud-amd64"] = ["6.1.100-1"]
        there["linux-headers-6.1.0-10-common"] = ["6.1.100-1"]
        there["linux-source-6.1"] = ["6.1.99-1", "6.1.100-1", "6.1.101-1"]
        self.assertEqual(self.choose(there).stdout,
                         "6.1.99-1 6.1.0-9 linux-image-6.1.0-9-cloud-amd64\n")
        there["linux-kbuild-6.1"].append("6.1.100-1")
        self.assertEqual(self.choose(there).stdout, "6.1.100-1 6.1.0-10 "
                         "linux-image-6.1.0-10-cloud-amd64\n")

    def test_an_image_that_is_not_signed_yet_is_good_enough(self):
        there = {package: ["6.1.99-1"] for package in self.COMMON}
        there["linux-image-6.1.0-9-cloud-amd64-unsigned"] = ["6.1.99-1"]
        self.assertEqual(
            self.choose(there).stdout,
            "6.1.99-1 6.1.0-9 linux-image-6.1.0-9-cloud-amd64-unsigned\n")

    def test_what_the_newest_lacks_is_named_if_there_is_none(self):
        there = {package: ["6.1.99-1"] for package in self.COMMON}
        there["linux-image-6.1.0-9-cloud-amd64"] = ["6.1.98-1"]
        there["linux-source-6.1"] = ["6.1.98-1"]
        result = self.choose(there)
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn("6.1.99-1", result.stderr)
        self.assertIn("lacks linux-image-6.1.0-9-cloud-amd64-unsigned "
                      "linux-source-6.1", result.stderr)

    def test_package_lists_without_a_kernel_are_refused(self):
        result = self.choose({"linux-source-6.1": ["6.1.99-1"]})
        self.assertEqual(result.returncode, 1)
        self.assertIn("no linux-headers-6.1", result.stderr)


if __name__ == "__main__":
    PROBE = sys.argv.pop(1)
    prepared = run("--prepare")
    if prepared.returncode == 126:
        sys.stderr.buffer.write(prepared.stderr)
        sys.exit(126)
    unittest.main(verbosity=2)
