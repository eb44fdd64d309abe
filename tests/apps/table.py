#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""tests/APPS.md out of the figures that the tests left: table.py [apps.json] > tests/APPS.md"""
import json
import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
HEAD = """# Programs under tapas

Made by tests/apps/table.py from what `make apps` (quick, shared mode) or `make check-apps` (at length, both modes)
leaves in build/apps.json: unmodified programs of Debian 12 under `tapas run`, on one of two hosts joined by a veth
pair, talking to plain Linux programs on the other. Everything that is transferred is compared. *Fast* is the share
of the TCP payload between the hosts that the service carried; the rest is what connections exchanged before they were
adopted, and connections that were not. A program passes with 90 % at least, if no reason excuses it.
"""
SMALL = """
## What programs do with descriptors

Small servers, each of which does one such thing in the middle of a conversation (tests/apps/test_small.py).
"""
COLUMNS = """
| program | connections adopted | bytes | fast | |
|---|--:|--:|--:|---|"""


def size(n):
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return "%.3g %s" % (n, unit)
        n /= 1000
    return "%.3g GB" % n


def row(name, f):
    share = "" if f.get("share") is None else "%.1f %%" % (100 * f["share"])
    note = [f["exempt"]] if f.get("exempt") else []
    note += [] if f["ok"] else ["**fails**: " + f.get("wrong", "")]
    note += ["left with Linux: " + ", ".join("%d %s" % (n, r) for r, n in sorted(f["with_linux"].items()))
             ] if f.get("with_linux") else []
    return "| %s | %d | %s | %s | %s |" % (name, f.get("adopted", 0), size(f.get("bytes", 0)), share,
                                           "; ".join(note).replace("|", "\\|"))


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "..", "..", "build", "apps.json")
    with open(path) as f:
        figures = json.load(f)
    small = {k[len("small: "):]: f for k, f in figures.items() if k.startswith("small: ")}
    programs = {k: f for k, f in figures.items() if not k.startswith("small: ")}
    for head, rows in ((HEAD, programs), (SMALL, small)):
        print(head + COLUMNS)
        for name in sorted(rows, key=str.lower):
            print(row(name, rows[name]))


if __name__ == "__main__":
    main()
