#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""tests/SUITES.md out of the figures that test_suites.py left: suite_table.py [suites.json] > tests/SUITES.md"""
import json
import os
import sys

from suites import SOMETIMES, shares
from table import size

HERE = os.path.dirname(os.path.realpath(__file__))
HEAD = """# CPython's test suites within one host

Made by tests/apps/suite_table.py from what `make check-apps` leaves in build/suites.json. Each suite is Debian's
(libpython3.11-testsuite), unmodified, and runs twice in one network namespace: as it is, and under `tapas run` with
`local = service` and, as most connections of a suite are short, `exchanges = 1` and `bytes = 1`. Its servers and clients
are threads of one process, or processes that it starts. *Same* is the number of test cases with the result that they
have on plain Linux; how many of these are skipped there, too, stands beside it. A case that differs is run again, by
itself and with the others; it is *unstable* if tapas then shows nothing that plain Linux does not, or if it is known to
differ now and then, and why.

*Connections* are all those that are within the host, as tcpdump sees them on the loopback device. *Eligible* are those
that tapas has carried, FAST at both ends, and those that are not although they have had more than what leaves a
connection with Linux by default, two exchanges or 64 KB, and since then both ends have made a call in which they could
have asked: each has sent something, or more than 4 MB have been sent, which is more than Linux holds between the two. An
end asks at the end of a call, so whoever sends a megabyte in one call to a program that does something else meanwhile
has sent it through Linux. Eligible *bytes* are those that went through memory (`local_bytes`) and those that any
connection has sent through Linux when it was that old.

"""
COLUMNS = """| suite | same | skipped | connections | eligible | carried | eligible bytes | carried | |
|---|--:|--:|--:|--:|--:|--:|--:|---|"""


def percent(part, whole):
    return "%.1f %%" % (100 * part / whole) if whole else ""


def row(f):
    note = ["**differs**: " + ", ".join(f["differs"])] if f["differs"] else []
    note += ["unstable: %s" % k + (", as " + SOMETIMES[k] if k in SOMETIMES else "") for k in f["unstable"]]
    note += ["on both: %s %s" % (k, v) for k, v in f["other"].items() if k not in f["unstable"]]
    return "| %s | %d of %d | %d | %d | %d | %s | %s | %s | %s |" % (
        f["suite"], f["cases"] - len(f["differs"]) - len(f["unstable"]), f["cases"], f["skipped"], f["connections"],
        f["eligible"], percent(f["paired"], f["eligible"]), size(f["eligible_bytes"]),
        percent(f["local_bytes"], f["eligible_bytes"]), "; ".join(note).replace("|", "\\|"))


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "..", "..", "build", "suites.json")
    with open(path) as f:
        figures = [v for _, v in sorted(json.load(f).items())]
    print(HEAD + COLUMNS)
    for f in figures:
        print(row(f))
    connections, total = shares(figures)
    print("\nOf all together: %.1f %% of %d eligible connections, %.1f %% of %s." % (
        100 * connections, sum(f["eligible"] for f in figures), 100 * total,
        size(sum(f["eligible_bytes"] for f in figures))))


if __name__ == "__main__":
    main()
