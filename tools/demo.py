#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A running guest moves to another host and back, and loses nothing.

demo.py BIN_DIR

BIN_DIR holds minivm and vhost-model-blk.  The two hosts are network namespaces
with a cable between them; for who is not root, two programs on one host.  Each
has a disk back-end of its own on one shared image.  The guest writes, reads
back and keeps a journal of what was acknowledged, which moves with it.

Exit status 0: it moved twice, and everything that was acknowledged was there.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

QUEUES = 4
IMAGE_SIZE = 256 << 20
PORT = 4444
RUN_SECONDS = 3
# What only a program that hangs does not do in.
PATIENCE = 60


class Failed(Exception):
    """Says what went wrong."""


def say(text):
    print(f"\n== {text}", flush=True)


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {PATIENCE} s")
        time.sleep(0.02)


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Network:
    """Two namespaces and a cable, or this host twice."""

    def __init__(self):
        self.namespaces = []
        self.addresses = ["127.0.0.1", "127.0.0.1"]
        if os.geteuid() != 0:
            print("not root: both hosts are this one")
            return
        names = [f"vhostdev-{os.getpid()}-{side}" for side in "ab"]
        cables = [f"vhd{os.getpid()}{side}" for side in "ab"]
        for name in names:
            ip("netns", "add", name)
            self.namespaces.append(name)
        ip("link", "add", cables[0], "netns", names[0], "type", "veth",
           "peer", "name", cables[1], "netns", names[1])
        self.addresses = ["10.97.0.1", "10.97.0.2"]
        for name, cable, address in zip(names, cables, self.addresses):
            ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")

    def command(self, side):
        if not self.namespaces:
            return []
        return ["ip", "netns", "exec", self.namespaces[side]]

    def close(self):
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "delete", name], check=False)


class Demo:
    """All that runs, ended with it."""

    def __init__(self, bins, folder):
        self.bins = bins
        self.folder = folder
        self.image = folder / "disk.img"
        with self.image.open("wb") as image:
            image.truncate(IMAGE_SIZE)
        self.running = []
        self.network = None
        self.disks = 0

    def close(self):
        for process in self.running:
            process.kill()
        for process in self.running:
            process.wait()
        if self.network is not None:
            self.network.close()

    def start(self, argv, **streams):
        process = subprocess.Popen([str(word) for word in argv], **streams)
        self.running.append(process)
        return process

    def start_disk(self, name):
        """A back-end on the shared image; its socket."""
        self.disks += 1
        socket = self.folder / f"{name}{self.disks}.sock"
        process = self.start([self.bins / "vhost-model-blk",
                              f"--socket-path={socket}",
                              f"--blk-file={self.image}",
                              f"--queues={QUEUES}"])
        wait_until(lambda: socket.exists() or process.poll() is not None,
                   "a disk back-end")
        return socket

    def start_vm(self, side, *options):
        name = "ab"[side]
        control = self.folder / f"{name}.ctl"
        disk = self.start_disk(name)
        process = self.start(
            [*self.network.command(side), self.bins / "minivm", "run",
             "--memory", "256M", "--guest", "driver",
             "--disk", f"socket={disk},queues={QUEUES}",
             "--control", control, "--json", *options],
            stdout=subprocess.PIPE, text=True)
        vm = Vm(self.bins / "minivm", control, process)
        wait_until(vm.answers_or_ended, f"the VM of host {name}")
        return vm


class Vm:
    """A minivm that runs."""

    def __init__(self, program, control, process):
        self.program = program
        self.control = control
        self.process = process

    def ctl(self, *words, stderr=None):
        """Its answer; None: there is none."""
        done = subprocess.run(
            [self.program, "ctl", self.control, *words, "--json"],
            stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def answers_or_ended(self):
        return (self.process.poll() is not None or
                self.ctl("status", stderr=subprocess.DEVNULL) is not None)

    def workload(self):
        stats = self.ctl("stats")
        if stats is None:
            raise Failed("a VM does not answer")
        return stats["workload"]

    def runs_for(self, seconds):
        """Its guest, under load."""
        before = self.workload()
        time.sleep(seconds)
        now = self.workload()
        if now["faults"]:
            raise Failed(f"{now['faults']} faults: {now.get('first_fault')}")
        did = sum(now[what] - before[what] for what in ("reads", "writes"))
        print(f"{did} requests in {seconds} s, {now['writes']} writes "
              f"acknowledged so far, {now['faults']} faults")
        if not did:
            raise Failed("the guest does nothing")

    def moves_to(self, where):
        answer = self.ctl("migrate", where, "--bandwidth", "64M",
                          "--downtime", "1000", "--progress")
        if answer is None:
            raise Failed("the guest did not move")
        print(f"moved in {answer['rounds']} rounds and "
              f"{answer['bytes'] / 2**20:.1f} MiB; "
              f"down for {answer['downtime_ms']:.1f} ms")
        if not self.end()["moved"]:
            raise Failed("the source says that it has the guest")
        return answer["downtime_ms"]

    def end(self):
        """Its last line."""
        out, _ = self.process.communicate(timeout=PATIENCE)
        if self.process.returncode != 0:
            raise Failed(f"minivm ended with {self.process.returncode}")
        return json.loads(out.splitlines()[-1])


def run(demo):
    demo.network = network = Network()
    address = [f"tcp:{host}:{PORT + side}"
               for side, host in enumerate(network.addresses)]
    say("host a: a guest that verifies its disk")
    here = demo.start_vm(0, "--workload", "verify,depth=32")
    here.runs_for(RUN_SECONDS)
    downtimes = []
    for side in (1, 0):
        there = demo.start_vm(side, "--incoming", address[side])
        say(f"it moves to host {'ab'[side]}, {address[side]}, while it runs")
        downtimes.append(here.moves_to(address[side]))
        here = there
        say(f"it goes on at host {'ab'[side]}")
        here.runs_for(RUN_SECONDS)
    say("everything is read back")
    here.ctl("quit")
    report = here.end()
    if report["faults"]:
        raise Failed(f"{report['faults']} faults: {report.get('first_fault')}")
    print(f"{report['writes']} writes were acknowledged on two hosts, and none "
          f"was lost: {report['verified'] / 2**20:.0f} MiB read back\n"
          f"downtimes: {downtimes[0]:.1f} ms there, "
          f"{downtimes[1]:.1f} ms back")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: demo.py BIN_DIR")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bins = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="vhostdev-demo-") as folder:
        demo = Demo(bins, pathlib.Path(folder))
        try:
            run(demo)
        except (Failed, subprocess.SubprocessError, KeyError,
                json.JSONDecodeError) as error:
            sys.exit(f"demo: {error}")
        finally:
            demo.close()


if __name__ == "__main__":
    main()
