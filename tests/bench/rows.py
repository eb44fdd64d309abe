# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured in turn on Linux and on tapas: samples, medians, ratios, and the table.

A row has columns. A job returns {column: (value, whether higher is better)}, and what is kept with the sample but is no
column under names that begin with "_". A row may have targets: {column: target}, either the least ratio, or ("most",
value) for tapas's own figure. They are compared and shown, nothing more.
"""
import os
import statistics
import subprocess

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "1"))
ONLY = os.environ.get("BENCH_ONLY", "")
MODES = ("shared", "exclusive", "local")  # beside "plain"


def busy_seconds():
    """Busy time of all cores so far."""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:9]]
    return (sum(v) - v[3] - v[4]) / os.sysconf("SC_CLK_TCK")


def compare(a, b, higher, target):
    """One column: Linux's median, tapas's, and what to say about them."""
    ratio = (b / a if higher else a / b) if a and b else None
    out = {"linux": round(a, 3), "tapas": round(b, 3), "ratio": ratio and round(ratio, 3),
           "slower": ratio is not None and ratio < 1}
    if isinstance(target, tuple):
        out.update(target="at most %.3g" % target[1], met=b <= target[1])
    elif target:
        out.update(target="at least %.3g times" % target, met=ratio is not None and ratio >= target)
    return out


class Rows:
    def __init__(self):
        self.rows = {}
        self.errors = []

    def measure(self, n, rounds, mode, name, fn, lab, targets=None):
        print("round %d/%d  %-10s %-48s" % (n + 1, rounds, mode, name), end="", flush=True)
        try:
            before = {} if mode == "plain" else lab.counters()
            got = fn(lab)
            after = {} if mode == "plain" else lab.counters()
        except (AssertionError, subprocess.SubprocessError, OSError, ValueError, IndexError, KeyError) as e:
            self.errors.append("%s, %s: %s" % (mode, name, str(e)[:300]))
            print(" FAILED: %s" % str(e)[:200])
            return
        columns = {k: v for k, v in got.items() if k[0] != "_"}
        sample = {k: v[0] if k in columns else v for k, v in got.items()}
        if mode != "plain":
            sample["_counters"] = {k: after[k] - before[k] for k in after if after[k] != before[k]}
        row = self.rows.setdefault(name, {"samples": {}, "targets": targets or {}})
        row["samples"].setdefault(mode, []).append(sample)
        row["higher"] = {k: h for k, (_, h) in columns.items()}
        print("  ".join("%s %.4g" % (k, v) for k, v in sample.items() if k[0] != "_"), flush=True)

    def compared(self, name, mode):
        row = self.rows[name]
        linux, tapas = row["samples"].get("plain"), row["samples"].get(mode)
        if not linux or not tapas:
            return None
        columns = {}
        for col, higher in row["higher"].items():
            a, b = (statistics.median(s[col] for s in samples) for samples in (linux, tapas))
            columns[col] = compare(a, b, higher, row["targets"].get(col))
        out = {"name": name, "mode": mode, "slower": next(iter(columns.values()))["slower"], "columns": columns,
               "samples": {"linux": linux, "tapas": tapas}}
        if "_lo" in linux[0]:
            a, b = (statistics.median(s["_lo"] for s in samples) for samples in (linux, tapas))
            out["carried"] = round(max(0.0, 1 - b / a), 3) if a else None
        return out

    def report(self):
        return [r for r in (self.compared(name, mode) for name in self.rows for mode in MODES) if r]


def remarks(row, column):
    words = ["slower"] if column["slower"] else []
    if "target" in column:
        words.append("%s: %s" % (column["target"], "pass" if column["met"] else "MISS"))
    return ", ".join(words)


def print_table(table):
    print("\n%-46s %-9s %-8s %12s %12s %7s" % ("", "mode", "", "Linux", "tapas", "ratio"))
    for row in table:
        mode = row["mode"]
        if row.get("carried") is not None:
            mode += " %d%%" % round(100 * row["carried"])
        for i, (col, v) in enumerate(row["columns"].items()):
            ratio = "-" if v["ratio"] is None else v["ratio"]
            print(("%-46s %-10s %-8s %11.5g %12.5g %7s %s" % (row["name"] if not i else "", mode if not i else "", col,
                                                            v["linux"], v["tapas"], ratio, remarks(row, v))).rstrip())
    print("\nratio > 1: in favour of tapas. cpu_us: whole machine, own_us: processes of the row; per request (bulk: per MB)."
          "\nlocal N%: so much of what Linux carries over lo for the same work was not seen there.")
