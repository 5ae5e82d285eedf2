#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds docs/system_calls.md against the system calls that programs make.

system_calls.py --program MODES --backend MODEL_BLK [--write] MODE...

Runs MODES (tests/system_calls/modes.cc) under strace once for every mode.
Fails if there is a call that the page does not have, or the page has one that
does not happen.  --write writes the table of the page instead.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import time

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/system_calls.md"
PHASES = ("connect", "start", "io", "stop", "destroy")
SKIPPED = 77
MOST_LIVES = 60

# The allocator's and the locks': they come and go with the sizes of things.
ANYWHERE = frozenset(("brk", "futex", "madvise", "mmap", "mremap", "munmap"))
# Of these a filter wants to know an argument, by its position.
ARGUMENT = {"fcntl": 1, "ioctl": 1, "setsockopt": 2, "socket": 0,
            "socketpair": 0}

CALL = re.compile(r"^\d+ +(\w+)\((.*)")
PHASE = re.compile(r'PR_SET_NAME, "(\w+)"')
ROW = re.compile(r"^\| `(\w+)` \|(.*)\|$", re.M)
TABLE = re.compile(r"(?<=<!-- generated -->\n).*?(?=<!-- end -->)", re.S)


def calls_by_phase(trace):
    """{phase: {call}} of what strace wrote."""
    found = {name: set() for name in PHASES}
    phase = None
    for line in trace.splitlines():
        match = CALL.match(line)
        if not match:
            continue
        name, arguments = match.groups()
        begun = PHASE.search(arguments) if name == "prctl" else None
        if begun:
            phase = begun[1] if begun[1] in found else None
        elif phase:
            if name in ARGUMENT:
                argument = re.split(r", |\)", arguments)[ARGUMENT[name]]
                name = f"{name}({argument})"
            found[phase].add(name)
    return found


def read_table(page):
    """{mode: {phase: {call}}} of the page."""
    return {mode: {phase: set(re.findall(r"`([^`]+)`", cell))
                   for phase, cell in zip(PHASES, cells.split("|"))}
            for mode, cells in ROW.findall(page)}


def write_table(seen):
    lines = ["| mode | connect | start | I/O | stop | destroy |",
             "|---|---|---|---|---|---|"]
    for mode, phases in seen.items():
        cells = [", ".join(f"`{name}`" for name in sorted(phases[phase]))
                 or "none" for phase in PHASES]
        lines.append(f"| `{mode}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def usual(calls):
    return {phase: names - ANYWHERE for phase, names in calls.items()}


def compare(mode, allowed, seen):
    """Yields what is wrong, as (how, sentence).

    What the page has in another phase may slip into this one: a filter allows
    it all the same.  Only not into I/O.
    """
    somewhere = ANYWHERE.union(*allowed.values())
    for phase in PHASES:
        fits = ANYWHERE | allowed["io"] if phase == "io" else somewhere
        for name in sorted(seen[phase] - fits):
            yield "new", f"{mode}, {phase}: {name} is not on the page"
        for name in sorted(allowed[phase] - seen[phase]):
            yield "old", f"{mode}, {phase}: {name} does not happen"
    # Whatever the page says.
    if mode == "polling" and seen["io"]:
        yield "new", f"polled rings cost system calls: {sorted(seen['io'])}"


def watch(program, backend, mode):
    """The calls of one life of a disk."""
    with tempfile.TemporaryDirectory(prefix="vhostdev-calls-") as name:
        folder = pathlib.Path(name)
        socket, trace = folder / "disk.sock", folder / "trace"
        # It takes its time, so that whoever waits for it does.
        with subprocess.Popen([backend, "--socket-path", socket, "--size",
                               str(1 << 20), "--latency-ms", "5"]) as served:
            try:
                deadline = time.monotonic() + 10
                while not socket.is_socket():
                    if served.poll() is not None or time.monotonic() > deadline:
                        sys.exit("vhost-model-blk does not listen")
                    time.sleep(0.01)
                subprocess.run(["strace", "-f", "-qq", "-o", trace, program,
                                mode, socket], check=True, timeout=40)
            finally:
                served.kill()
        return calls_by_phase(trace.read_text())


def several(watch_once, times, enough=lambda union: False):
    """The calls of several lives together: not every one meets every wait."""
    union = {phase: set() for phase in PHASES}
    for _ in range(times):
        for phase, names in watch_once().items():
            union[phase] |= names
        if enough(union):
            break
    return union


def may_trace():
    done = subprocess.run(["strace", "-o", "/dev/null", "true"],
                          stderr=subprocess.PIPE, check=False)
    return done.returncode == 0


def check(watch_mode, modes):
    """A list of what is wrong with the page."""
    page = read_table(PAGE.read_text())
    wrong = []
    for mode in modes:
        if mode not in page:
            wrong.append(f"{mode}: no row")
            continue
        # Some calls are rare: a wait that is over before it began, a signal that
        # comes during a stop.
        seen = several(
            lambda mode=mode: watch_mode(mode), MOST_LIVES,
            lambda union, mode=mode: not any(
                how == "old" for how, _ in compare(mode, page[mode], union)))
        wrong += [text for _, text in compare(mode, page[mode], seen)]
    return wrong


def self_test():
    trace = ('7 openat(AT_FDCWD, "x") = 3\n'
             '7 prctl(PR_SET_NAME, "connect") = 0\n'
             '7 socket(AF_UNIX, SOCK_STREAM, 0) = 4\n7 brk(NULL) = 1\n'
             '7 fcntl(4, F_GETFL) = 2\n7 +++ exited with 0 +++\n'
             '7 prctl(PR_SET_NAME, "io") = 0\n7 read(3, "", 8) = 8\n'
             '7 prctl(PR_SET_NAME, "end") = 0\n7 close(3) = 0\n')
    seen = calls_by_phase(trace)
    assert seen["connect"] == {"socket(AF_UNIX)", "brk", "fcntl(F_GETFL)"}
    assert seen["io"] == {"read"} and not seen["destroy"]
    page = write_table({"epoll": usual(seen)})
    allowed = read_table(page)["epoll"]
    assert allowed == usual(seen), page
    assert not list(compare("epoll", allowed, seen))
    assert list(compare("polling", allowed, seen)), "polling with calls passes"
    seen["io"].add("fcntl(F_GETFL)")
    assert [how for how, _ in compare("epoll", allowed, seen)] == ["new"]
    seen["io"].remove("fcntl(F_GETFL)")
    seen["stop"].add("kill")
    assert [how for how, _ in compare("epoll", allowed, seen)] == ["new"]
    allowed["stop"] = {"kill", "close"}
    assert [how for how, _ in compare("epoll", allowed, seen)] == ["old"]


def main():
    self_test()
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("modes", nargs="+")
    arguments = parser.parse_args()
    if not may_trace():
        print("Skipped\nstrace may not trace here")
        return SKIPPED

    def watch_mode(mode):
        return watch(arguments.program, arguments.backend, mode)

    if arguments.write:
        table = write_table({
            mode: usual(several(lambda mode=mode: watch_mode(mode), 10))
            for mode in arguments.modes})
        PAGE.write_text(TABLE.sub(lambda _: table, PAGE.read_text()))
        return 0
    wrong = check(watch_mode, arguments.modes)
    for line in wrong:
        print(line)
    print(f"{len(arguments.modes)} modes, {len(wrong)} complaints")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
