#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Random socket operations on plain Linux and with the library, side by side (see ops.c).

    python3 tests/local/compare_ops.py --count 1000 [--start SEED] [OPTION=VALUE ...]
    python3 tests/local/compare_ops.py --seed SEED          one seed, both transcripts line by line
    python3 tests/local/compare_ops.py --plain-twice ...    Linux with Linux: the instrument itself

A service must be running; TAPAS_SOCKET names its socket, if it is not the usual one. Batches of
seeds run beside each other. Of each seed that differs the first differing line is shown, with
what was done to the same connection before, and Linux is asked again: what it does not say twice
is the instrument's fault, and is told apart. At the end --counter NAME --least N (both may be given several times)
asks `tapas stats --json` whether the connections were really carried: the counter's growth
during the run must be N at least. OPTION=VALUE goes to ops; --service COMMAND is run in the
middle of the library's scripts; --keep DIRECTORY leaves both transcripts of a seed that differs
there. Exit status 1: a difference, or too little carried.
"""
import argparse
import collections
import concurrent.futures
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.environ.get("TAPAS_BUILD", os.path.join(ROOT, "build"))
OPS = os.path.join(BUILD, "tests", "local", "ops")
TAPAS = os.path.join(BUILD, "tapas")
START_S, SEED_S = 20, 8  # bounds of a batch
BEFORE = 8  # lines shown before the one that differs
SHOWN = 10  # seeds shown at full length
EDGES_AGAIN = 3  # so often an end's edge may be reported once more to one process (see tolerate())


class Side:
    """One way to run scripts."""

    def __init__(self, name, prefix, env):
        self.name, self.prefix, self.env = name, prefix, env

    def run(self, seed, count, options):
        """The transcripts by seed; one that was not ended says so in its last line."""
        p = subprocess.Popen([*self.prefix, OPS, str(seed), str(count), *options], env=self.env, text=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, errors="replace")
        try:
            out = p.communicate(timeout=START_S + SEED_S * count)[0]
        except subprocess.TimeoutExpired:
            p.send_signal(signal.SIGTERM)
            out = p.communicate()[0] + "\n- not done in time\n"
        return split(out, p.returncode)


def split(out, status):
    got, lines = {}, []
    for line in out.splitlines():
        if line.startswith("seed "):
            lines = got[int(re.match(r"seed (\d+)", line)[1])] = []
        lines.append(line)
    if status:
        lines.append("- ops: exit status %d" % status)
    return got


def environment(service):
    env = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "OPS_SERVICE")}
    if service:
        env["OPS_SERVICE"] = service
    return env


def first_difference(a, b):
    for i in range(max(len(a), len(b))):
        x, y = (s[i] if i < len(s) else "(nothing)" for s in (a, b))
        if x != y:
            return i, x, y
    return None


def edges(line):
    """What an epoll_wait reports: (process, events by end), or None."""
    m = re.match(r"\d+ (\S) epoll_wait = \d+(.*)", line)
    return m and (m[1], dict(x.split(":") for x in m[2].split()))


def tolerate(a, b):
    """The lines b, as they would be without edges that were reported once more; and how many those are.

    A connection that is adopted, or stays with Linux after all, may have its edge reported once more by an
    EPOLLET registration that is armed (ops marks its events with /ET). A program that uses EPOLLET must bear
    that, as Linux itself does so when more bytes arrive. Everything else that is there more than once is a difference,
    and so is an edge that comes again and again. (That an edge may come late is dealt with in ops_events.c.)
    """
    out, again = list(b), collections.Counter()
    for i, (x, y) in enumerate(zip(a, b)):
        want, got = edges(x), edges(y)
        if x == y or not want or not got or want[0] != got[0]:
            continue
        more = {end for end, events in got[1].items() if end not in want[1] and events.endswith("/ET")}
        again.update((got[0], end) for end in more)
        if {k: v for k, v in got[1].items() if k not in more} == want[1] and max(again.values()) <= EDGES_AGAIN:
            out[i] = x
    return out, sum(again.values())


def subject(line):
    """The connection that a line is about, or None."""
    m = re.match(r"\d+ \S (\d)[cs] ", line)
    return m and m[1]


def word(line):
    """What a line is about, without its numbers: the call, its flags, the error."""
    text = re.sub(r"^\d+ \S( \d[cs])? ", "", line)
    left, _, right = text.partition(" = ")
    names = [x for x in left.split() if not re.match(r"\d|[0-9a-f]{8}$", x)]
    return " ".join(names + re.findall(r"\bE[A-Z]+\b(?!:)|SIGPIPE", right))


def context(lines, at, conn):
    """The lines before that are about the same connection, or about a process."""
    near = [x for x in lines[:at] if subject(x) in (conn, None)] if conn else lines[:at]
    return near[-BEFORE:]


def carried(name):
    """The service's counter of that name."""
    stats = json.loads(subprocess.check_output([TAPAS, "stats", "--json"], text=True))
    values = {c["name"]: c["value"] for c in stats["counters"]}
    if name not in values:
        sys.exit("tapas stats has no counter %s" % name)
    return values[name]


class Comparison:
    def __init__(self, args):
        plain = environment(None)
        self.left = Side("Linux", [], plain)
        self.right = (Side("Linux again", [], plain) if args.plain_twice else
                      Side("tapas", [TAPAS, "run"], environment(args.service)))
        self.options, self.shown, self.plain_twice = args.options, 0, args.plain_twice
        self.seeds = self.lines = self.again = 0
        self.keep = args.keep
        self.words = collections.Counter()
        self.differ, self.unstable = [], []

    def batch(self, seed, count):
        return [side.run(seed, count, self.options) for side in (self.left, self.right)]

    def judge(self, seed, count, left, right):
        for s in range(seed, seed + count):
            a, raw = left.get(s, []), right.get(s, [])
            b, again = (raw, 0) if self.plain_twice else tolerate(a, raw)
            self.again += again
            self.seeds += 1
            self.lines += len(a)
            self.words.update(map(word, a))
            bad = [x for x in a if re.search(r"unsettled|no answer|WRONG|ended (after|by)|does not end|for ever", x)]
            if first_difference(a, b) or bad or not a:
                self.report(s, a, b, bad)

    def report(self, seed, a, b, bad):
        again = self.left.run(seed, 1, self.options).get(seed, [])
        stable = not first_difference(a, again) and not bad
        (self.differ if stable else self.unstable).append(seed)
        for name, lines in (("linux", a), ("tapas", b)) if self.keep else ():
            with open(os.path.join(self.keep, "%d.%s" % (seed, name)), "w") as f:
                f.writelines(x + "\n" for x in lines)
        if self.shown >= SHOWN:
            return
        self.shown += 1
        print("seed %d: %s" % (seed, "differs" if stable else "not the same on Linux twice, or wrong there"))
        for name, x, y in ((self.right.name, a, b), ("Linux, once more", a, again)):
            d = first_difference(x, y)
            if d:
                at, old, new = d
                for line in context(x, at, subject(old) or subject(new)):
                    print("      " + line)
                print("    - %s\n    + %s   (%s)" % (old, new, name))
        for line in bad:
            print("    ! " + line)
        sys.stdout.flush()

    def run(self, start, count, batch, jobs, most):
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            todo = {}
            for seed in range(start, start + count, batch):
                n = min(batch, start + count - seed)
                todo[pool.submit(self.batch, seed, n)] = (seed, n)
            for done in concurrent.futures.as_completed(todo):
                if done.cancelled():
                    continue
                self.judge(*todo[done], *done.result())
                if len(self.differ) + len(self.unstable) >= most:
                    for f in todo:
                        f.cancel()

    def replay(self, seed):
        """Both transcripts of one seed; True if they are the same."""
        left, right = (side.get(seed, []) for side in self.batch(seed, 1))
        d = first_difference(left, right)
        for i, line in enumerate(left):
            other = right[i] if i < len(right) else "(nothing)"
            print("  " + line if line == other else "- %s\n+ %s" % (line, other))
        for line in right[len(left):]:
            print("+ " + line)
        return d is None


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--start", type=int, default=1, help="first seed")
    p.add_argument("--count", type=int, default=200, help="so many seeds")
    p.add_argument("--seed", type=int, help="replay this one")
    p.add_argument("--batch", type=int, default=10, help="seeds for one start of ops")
    p.add_argument("--jobs", type=int, default=4, help="batches beside each other")
    p.add_argument("--most", type=int, default=50, help="stop after so many seeds that differ")
    p.add_argument("--plain-twice", action="store_true", help="compare Linux with Linux")
    p.add_argument("--service", help="shell command in the middle of scripts, with the library only")
    p.add_argument("--counter", action="append", default=[], help="name of a counter of the service")
    p.add_argument("--least", action="append", default=[], type=int, help="its least growth, 1 if not given")
    p.add_argument("--keep", metavar="DIRECTORY", help="for the transcripts of seeds that differ")
    p.add_argument("--words", action="store_true", help="show how often each call and result came")
    p.add_argument("options", nargs="*", metavar="OPTION=VALUE", help="for ops")
    return p.parse_args()


def main():
    args = arguments()
    comparison = Comparison(args)
    if args.seed is not None:
        return 0 if comparison.replay(args.seed) else 1
    before = [carried(name) for name in args.counter]
    start = time.monotonic()
    comparison.run(args.start, args.count, args.batch, args.jobs, args.most)
    took = time.monotonic() - start
    print("%d seeds, %d lines, %.0f s, %.1f seeds/s each way; differ: %s; unstable: %s" % (
        comparison.seeds, comparison.lines, took, comparison.seeds / took, comparison.differ or "none",
        comparison.unstable or "none"))
    if comparison.again:
        print("edges reported once more: %d" % comparison.again)
    if args.words:
        for word, n in sorted(comparison.words.items()):
            print("%7d %s" % (n, word))
    bad = bool(comparison.differ or comparison.unstable)
    for name, old, least in itertools.zip_longest(args.counter, before, args.least, fillvalue=1):
        grown = carried(name) - old
        print("%s: %d more" % (name, grown))
        if grown < least:
            print("too little was carried: wanted %d at least" % least)
            bad = True
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
