#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sums up one ./run test.

report.py FOLDER BUDGETS
report.py --self-test

FOLDER has a file "times" with lines "<part> <seconds> passed|failed <command>"
and the JUnit files (*.xml) that ctest wrote.  Prints the skipped tests with
their reasons, the time of each part next to its budget, and the number of
tests.  A ctest with many tests of gtest in it (one boot of a guest) names those
that failed or were skipped.  Of a failed one it prints what it complained about.
Fails if a test failed or a part took longer than its budget.
"""

import collections
import contextlib
import io
import pathlib
import re
import sys
import tempfile
import xml.etree.ElementTree

# Of the output of one failed test.
MOST_LINES = 40

SKIPPED = re.compile(r"Skipped\n(.*?)(?:\n\[|\Z)", re.S)
SKIPPED_WITHIN = re.compile(r"Skipped\n(.*?)\n\[  SKIPPED \] (\S+) \(", re.S)
FAILURE = re.compile(r"^\S+:\d+: Failure\n.*?(?=^\[|^\S+:\d+: Failure\n|\Z)",
                     re.M | re.S)
FAILED_WITHIN = re.compile(r"^\[  FAILED  \] (\S+?)(?:,.*)? \(\d+ ms\)$", re.M)


def read_budgets(path):
    lines = (line.split("#")[0].split() for line in path.open())
    return {line[0]: 60 * float(line[1]) for line in lines if line}


def skip_reason(test):
    """What the test printed with GTEST_SKIP, on one line."""
    output = test.findtext("system-out") or ""
    reason = SKIPPED.search(output)
    return on_one_line(reason[1] if reason else output or "it was not run")


def on_one_line(text):
    return " ".join(text.split())[:200]


def complaints(output):
    """What a failed test printed about its failures, a few lines of it."""
    said = "".join(FAILURE.findall(output)) or output[-2000:]
    lines = [line[:300] for line in said.splitlines() if line.strip()]
    more = len(lines) - MOST_LINES
    if more > 0:
        lines[MOST_LINES:] = [f"({more} more lines)"]
    return "".join(f"\n      {line}" for line in lines)


def was_skipped(test):
    """Whether it skipped itself, with GTEST_SKIP or SKIP_RETURN_CODE."""
    skipped = test.find("skipped")
    return skipped is not None and (
        "Skipped" in (test.findtext("system-out") or "")
        or "SKIP_RETURN_CODE" in (skipped.get("message") or ""))


def report(folder, budgets):
    """Prints the report, returns whether all is well."""
    times = collections.Counter()
    counts = collections.Counter()
    skipped, failed = [], []
    for line in (folder / "times").open():
        part, seconds, result, command = line.strip().split(" ", 3)
        times[part] += int(seconds)
        # What fails under ctest is in the JUnit files.
        if result == "failed" and not command.startswith("ctest "):
            counts["failed"] += 1
            failed.append(f"  {command}")
    for file in sorted(folder.glob("*.xml")):
        for test in xml.etree.ElementTree.parse(file).getroot().iter("testcase"):
            name = f"{test.get('name')} ({file.stem})"
            output = test.findtext("system-out") or ""
            if test.get("status") == "run":
                counts["passed"] += 1
                for reason, within in SKIPPED_WITHIN.findall(output):
                    counts["skipped"] += 1
                    skipped.append(f"  {name}, {within}: {on_one_line(reason)}")
            elif was_skipped(test):
                counts["skipped"] += 1
                skipped.append(f"  {name}: {skip_reason(test)}")
            else:
                counts["failed"] += 1
                within = FAILED_WITHIN.findall(output)
                failed.append("".join([f"  {name}"] +
                                      [f"\n    {test}" for test in within])
                              + complaints(output))

    print("\nskipped:" if skipped else "\nskipped: none")
    print("\n".join(skipped), end="\n" if skipped else "")
    if failed:
        print("failed:\n" + "\n".join(failed))
    over = [part for part in times if times[part] > budgets.get(part, 0)]
    print(f"\n{'part':<12}{'seconds':>8}{'budget':>8}")
    for part in [part for part in budgets if part in times]:
        mark = "  over its budget" if part in over else ""
        print(f"{part:<12}{times[part]:>8}{budgets[part]:>8.0f}{mark}")
    print(f"\n{counts['passed']} passed, {counts['failed']} failed, "
          f"{counts['skipped']} skipped")
    return not over and not failed


def self_test():
    """Whether it accepts a good run and refuses late and failed ones."""
    ctest = "unit 2 passed ctest -L unit\n"
    test = '<testcase name="a" status="{}">{}</testcase>'
    good = test.format("run", "")
    bad = test.format("fail", "<failure/>")
    gone = test.format("notrun", "<skipped/><system-out>Unable to find"
                       "</system-out>")
    skip = test.format("notrun", "<skipped/><system-out>x_test.cc:3: Skipped\n"
                       "no device\n[  SKIPPED ]</system-out>")
    boot = test.format("notrun", '<skipped message="SKIP_RETURN_CODE=126"/>'
                       "<system-out>run-in-guest: no kernel</system-out>")
    inner = test.format("{}", "{}<system-out>[ RUN      ] S.Skips\nx.cc:3: "
                        "Skipped\nno tap\n[  SKIPPED ] S.Skips (0 ms)\n"
                        "[  FAILED  ] S.Fails/0, where GetParam() = 1 (2 ms)\n"
                        "[  FAILED  ] S.Fails/0, where</system-out>")
    told = test.format("fail", "<failure/><system-out>[ RUN      ] S.Fails\n"
                       "noise\nx.cc:7: Failure\nExpected: 1\n\n  not: 2\n"
                       "x.cc:9: Failure\nthird\n[  FAILED  ] S.Fails (1 ms)\n"
                       "</system-out>")
    runs = (
        (True, ctest, boot, "a (dev): run-in-guest: no kernel"),
        (True, ctest, inner.format("run", ""), "a (dev), S.Skips: no tap"),
        (False, ctest, inner.format("fail", "<failure/>"),
         "a (dev)\n    S.Fails/0\n"),
        (False, ctest, told, "a (dev)\n    S.Fails\n      x.cc:7: Failure\n"
         "      Expected: 1\n        not: 2\n      x.cc:9: Failure\n"
         "      third\n\n"),
        (True, ctest, good + skip, "a (dev): no device"),
        (True, ctest, good, "skipped: none"),
        (False, ctest, good + bad, "1 passed, 1 failed, 0 skipped"),
        (False, ctest, gone, "0 passed, 1 failed, 0 skipped"),
        (False, "fuzz 1 failed fuzz 20\n", good, "1 passed, 1 failed"),
        (False, "unit 61 passed ctest\n", good, "over its budget"),
        (False, "unit 40 passed x\nunit 40 passed y\n", good, "over its"),
        (False, "nameless 1 passed x\n", good, ""),
    )
    well = True
    for expected, times, tests, text in runs:
        output = io.StringIO()
        with tempfile.TemporaryDirectory() as name, \
                contextlib.redirect_stdout(output):
            folder = pathlib.Path(name)
            (folder / "times").write_text(times)
            (folder / "dev.xml").write_text(f"<testsuite>{tests}</testsuite>")
            result = report(folder, {"unit": 60, "fuzz": 60})
        if result != expected or text not in output.getvalue():
            print(f"wrong for {times!r} and {tests!r}:\n{output.getvalue()}")
            well = False
    return well


def main():
    if sys.argv[1:] == ["--self-test"]:
        well = self_test()
    else:
        well = report(pathlib.Path(sys.argv[1]),
                      read_budgets(pathlib.Path(sys.argv[2])))
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
