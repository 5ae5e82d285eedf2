#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks docs/names.md against the list of QEMU's names.

Every name of tests/docs/qemu_vhost_names.txt has exactly one row, every row
says what it is here, and whatever a row calls ours exists in a public header.
"""
import pathlib
import re
import sys

ROW = re.compile(r"^\| *(?P<theirs>`[^|]*?) *\| *(?P<ours>[^|]*?) *\|$")
CODE = re.compile(r"`([^`]+)`")
WORD = re.compile(r"[A-Za-z_]\w+")


def rows(page):
    """The (names, ours) of each table row of the page, by section."""
    section = ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
        match = ROW.match(line)
        if match:
            yield section, CODE.findall(match["theirs"]), match["ours"]


def check(page, names, headers):
    """A list of what is wrong."""
    wrong = []
    seen = {}
    for section, theirs, ours in rows(page):
        if not re.search(r"`|planned|not needed, because |private to ", ours):
            wrong.append(f"{theirs[0]}: says neither ours, planned nor why not")
        for code in CODE.findall(ours):
            for word in WORD.findall(code):
                if word not in headers and word not in ("traits",):
                    wrong.append(f"{theirs[0]}: no public header has {word}")
        if section != "VhostOps":
            for name in theirs:
                seen[name] = seen.get(name, 0) + 1
    for name in names:
        if seen.get(name, 0) != 1:
            wrong.append(f"{name}: {seen.get(name, 0)} rows, 1 expected")
    for name in seen:
        if name not in names:
            wrong.append(f"{name}: not a name of QEMU's vhost.h")
    return wrong


def self_test():
    headers = {"VhostDev", "start"}
    good = "| QEMU | here |\n|---|---|\n| `a` | `VhostDev::start` |\n"
    assert check(good, ["a"], headers) == []
    assert check(good, ["a", "b"], headers), "a missing row passes"
    assert check(good + "| `b` | ok |\n", ["a", "b"], headers), "a vague row passes"
    assert check(good + "| `a` | planned |\n", ["a"], headers), "two rows pass"
    assert check(good, [], headers), "an unknown name passes"
    assert check(good, ["a"], {"VhostDev"}), "a name nobody declares passes"


def main():
    self_test()
    root = pathlib.Path(__file__).resolve().parents[2]
    names = [
        line.strip()
        for line in (root / "tests/docs/qemu_vhost_names.txt").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    headers = set()
    for header in (root / "include/vhostdev").glob("*.h"):
        headers.update(WORD.findall(header.read_text()))
    wrong = check((root / "docs/names.md").read_text(), names, headers)
    for line in wrong:
        print(f"docs/names.md: {line}")
    print(f"{len(names)} names, {len(wrong)} complaints")
    return 1 if wrong or not names else 0


if __name__ == "__main__":
    sys.exit(main())
