#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whether the tests that tables in tests/*/README.md name exist.

  named_tests.py [--self-test]

A name in backquotes in a row of a table is a suite, or a test of one
(Suite.Test); "*" at its end stands for anything.  Names that contain a space,
a slash or an underscore, or begin small, are something else; so is what is in
NOT_TESTS.
"""
import pathlib
import re
import sys

NOT_TESTS = {"UseSocket", "VhostDev"}
DEFINITION = re.compile(r"^TEST(?:_F|_P)?\(\s*(\w+),\s*(\w+)\)", re.MULTILINE)
NAME = re.compile(r"`([A-Z]\w*?(?:\.\w+)?\*?)`")


def names_in(table: str) -> list[str]:
    rows = [line for line in table.splitlines() if line.startswith("|")]
    found = [name for row in rows for name in NAME.findall(row)]
    return [n for n in found if "_" not in n and n not in NOT_TESTS]


def is_there(name: str, tests: set[tuple[str, str]]) -> bool:
    suite, _, test = name.partition(".")
    if name.endswith("*"):
        return any(f"{s}.{t}".startswith(name[:-1]) for s, t in tests)
    return any(s == suite and test in ("", t) for s, t in tests)


def self_test() -> None:
    tests = set(DEFINITION.findall("TEST_P(Sea,\n       IsWet) {}\nTEST(A, B)"))
    assert tests == {("Sea", "IsWet"), ("A", "B")}
    for name in ("Sea", "Sea.IsWet", "Sea.Is*", "A.B"):
        assert is_there(name, tests), name
    for name in ("See", "Sea.IsDry", "Sea.Dry*", "A.IsWet"):
        assert not is_there(name, tests), name
    assert names_in("`No`\n| `Sea.IsWet` | `a`, `f_x.cc`, `Sea.Is*` |") == [
        "Sea.IsWet", "Sea.Is*"]


def main() -> int:
    if "--self-test" in sys.argv:
        self_test()
        return 0
    here = pathlib.Path(__file__).parent
    tests = set()
    for source in here.rglob("*.cc"):
        tests.update(DEFINITION.findall(source.read_text()))
    wrong = 0
    for readme in sorted(here.glob("*/README.md")):
        for name in names_in(readme.read_text()):
            if not is_there(name, tests):
                print(f"{readme.relative_to(here.parent)}: no test {name}")
                wrong += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
