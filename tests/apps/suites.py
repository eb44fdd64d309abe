#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""CPython's own test suites on plain Linux and, within one host, on tapas: suites.py [-o DIRECTORY] SUITE ...

Each runs twice in the service's namespace, as it is and under `tapas run` (suite_case.py), and each test case must
have the result that it has on plain Linux. One that differs is run again, by itself, some times on both: it counts as
different if tapas alone then shows something else once more, and as unstable otherwise.

What tapas carried is counted in the second run by three who do not know of each other: tcpdump sees what the loopback
device carries of each connection, the service's log says which became FAST at both ends, local_bytes says what went
through memory. Eligible are the connections that are FAST at both ends, and those that are not although they became
ripe in Linux: they have had more than after which a connection is adopted by default, two exchanges or 64 KB, and since
then both ends have made a call in which they could have asked (lo_capture.py). Eligible bytes are those that went
through memory, and those that any connection has exchanged in Linux when it was ripe. For comparison: what was ripe on
plain Linux.
"""
import json
import os
import re
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "net")]
from lab import BUILD, Lab, run_prefix, scale  # noqa: E402
from lo_capture import Capture, connections  # noqa: E402

CASE = os.path.join(HERE, "suite_case.py")
FIGURES = os.path.join(BUILD, "suites.json")
PYTHON = "/usr/bin/python3"
QUIET_S = scale(180, 40)  # so long a case may take
ROUNDS = 5  # so often a suite that hung or crashed is continued
AGAIN = 3  # how often a case that differs is run again
CONFIG = {"service": {"local": "service"}}
# differs in some runs, and why; not mended yet
SOMETIMES = {
    "test.test_epoll.TestEPoll.test_control_and_wait":
        "a wait that has another event to tell may leave that of a connection just being adopted to the next wait",
}
FAST_LINE = re.compile(r"flow \d+ \[?([^ \]]+?)\]?:(\d+) > \[?([^ \]]+?)\]?:(\d+): adopting to fast")


def read_results(path):
    """({id: result}, all ids, the case that was begun but not ended, whether the suite ended)"""
    results, ids, begun, ended = {}, [], None, False
    try:
        with open(path) as f:
            for line in f:
                what, _, case = line.rstrip("\n").partition(" ")
                ended |= what == "end"
                if what == "case":
                    ids.append(case)
                elif what == "start":
                    begun = case
                elif case:
                    results[case] = what
                    begun = None if begun == case else begun
    except FileNotFoundError:
        pass
    return results, ids, begun, ended


class Runner:
    def __init__(self, lab):
        self.lab = lab
        self.n = 0

    def _once(self, module, tapas, ids):
        self.n += 1
        where = os.path.join(self.lab.dir, "%s.%d" % (module, self.n))
        os.makedirs(where)
        out, err = where + ".out", where + ".err"
        argv = [*(run_prefix() if tapas else []), PYTHON, CASE, out, module, *ids]
        with open(err, "wb") as f:
            p = self.lab.server.popen(argv, cwd=where, env=self.lab.env(), stdout=f, stderr=f, start_new_session=True)
        end, size = time.monotonic() + QUIET_S, -1
        while p.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
            if os.path.exists(out) and os.path.getsize(out) != size:
                end, size = time.monotonic() + QUIET_S, os.path.getsize(out)
        if p.poll() is None:
            p.send_signal(signal.SIGABRT)  # faulthandler says where it stands
            time.sleep(1)
        try:
            os.killpg(p.pid, signal.SIGKILL)  # what it has left behind
        except ProcessLookupError:
            pass
        p.wait()
        results, all_ids, begun, ended = read_results(out)
        if not ended:
            results[begun or module] = "hung or crashed (%d)" % p.returncode
        with open(err, errors="replace") as f:
            return results, [] if ended else [i for i in all_ids if i not in results], f.read()

    def run(self, module, tapas, ids=()):
        """{id: result}, what it said. A suite that hangs or crashes is continued behind that case."""
        results, todo, text = self._once(module, tapas, ids)
        for _ in range(ROUNDS):
            if not todo:
                break
            more, todo, said = self._once(module, tapas, todo)
            results.update(more)
            text += said
        return results, text


def differing(plain, tapas):
    return sorted(i for i in plain.keys() | tapas.keys() if plain.get(i) != tapas.get(i))


def judge(runner, module, plain, tapas):
    """What differs, and what is unstable: {id: what the runs said} each."""
    differs, unstable, whole = {}, {}, None
    for case in differing(plain, tapas):
        linux, ours = {plain.get(case)}, []
        ids = [] if "(" in case else [case]  # what a fixture has said has no id
        for _ in range(AGAIN):
            linux.add(runner.run(module, False, ids)[0].get(case))
            ours.append(runner.run(module, True, ids)[0].get(case))
        if all(x in linux for x in ours):  # perhaps only with others
            whole = whole or runner.run(module, True)[0]
            ours.append(whole.get(case))
        said = "%s on Linux, %s on tapas; again: %s and %s" % (
            plain.get(case), tapas.get(case), ", ".join(map(str, linux)), ", ".join(map(str, ours)))
        really = any(x not in linux for x in ours) and case not in SOMETIMES
        (differs if really else unstable)[case] = SOMETIMES.get(case, said)
    return differs, unstable


def paired(log):
    """The connections that were FAST at both ends: {frozenset of (address, port)}"""
    ends = {((m[0], int(m[1])), (m[2], int(m[3]))) for m in FAST_LINE.findall(log)}
    return {frozenset(e) for e in ends if (e[1], e[0]) in ends and e[0] != e[1]}


def carried(conns, pairs, local_bytes, figure):
    both = [c for c in conns if frozenset(c.ends) in pairs]
    left = [c for c in conns if c.ripe and frozenset(c.ends) not in pairs]
    figure.update(connections=len(conns), eligible=len(both) + len(left), paired=len(both), local_bytes=local_bytes,
                  eligible_bytes=local_bytes + sum(c.late for c in conns),
                  early_bytes=sum(c.bytes - c.late for c in both),
                  left=sorted(([c.exchanges, c.bytes, *c.ends] for c in left), reverse=True)[:20],
                  late=sorted(([c.late, c.bytes, *c.ends] for c in both if c.late), reverse=True)[:20])


def measure(lab, module):
    """One suite, on both: a figure."""
    runner, figure = Runner(lab), {"suite": module}
    start = time.monotonic()
    with Capture(lab.server, os.path.join(lab.dir, "plain.pcap")) as plain_seen:
        plain, said_plain = runner.run(module, False)
    figure["seconds_linux"] = round(time.monotonic() - start, 1)
    ripe = [c for c in connections(plain_seen.path) if c.ripe]
    figure.update(ripe_linux=len(ripe), late_bytes_linux=sum(c.late for c in ripe))
    before, log_at, start = lab.counters(), len(lab.log()), time.monotonic()
    with Capture(lab.server, os.path.join(lab.dir, "tapas.pcap")) as seen:
        tapas, said = runner.run(module, True)
    figure["seconds_tapas"] = round(time.monotonic() - start, 1)
    after = lab.counters()
    delta = {k: v - before[k] for k, v in after.items() if v != before[k]}
    carried(connections(seen.path), paired(lab.log()[log_at:]), delta.get("local_bytes", 0), figure)
    figure["differs"], figure["unstable"] = judge(runner, module, plain, tapas)
    for what in ("ok", "skipped", "expected"):
        figure[what] = sum(v == what for v in plain.values())
    figure["other"] = {k: v for k, v in plain.items() if v not in ("ok", "skipped", "expected")}
    figure.update(cases=len(plain), counters=delta, lost=seen.lost)
    return figure, said_plain, said


def record(figure):
    """Into suites.json beside the binaries: suite_table.py makes a table of it."""
    try:
        with open(FIGURES) as f:
            figures = json.load(f)
    except (FileNotFoundError, ValueError):
        figures = {}
    figures[figure["suite"]] = figure
    with open(FIGURES, "w") as f:
        json.dump(figures, f, indent=1, sort_keys=True)
        f.write("\n")


def shares(figures):
    """(connections, bytes) that tapas has carried of those that were eligible in all of them together."""
    total = {k: sum(f[k] for f in figures) for k in ("eligible", "paired", "local_bytes", "eligible_bytes")}
    return total["paired"] / max(1, total["eligible"]), total["local_bytes"] / max(1, total["eligible_bytes"])


def main():
    where, modules = None, sys.argv[1:]
    if modules[:1] == ["-o"]:
        where, modules = modules[1], modules[2:]
    for module in modules:
        with Lab("shared", config=CONFIG) as lab:
            figure, said_plain, said = measure(lab, module)
            for name, text in (("linux", said_plain), ("tapas", said), ("log", lab.log())) if where else ():
                with open(os.path.join(where, "%s.%s" % (module, name)), "w") as f:
                    f.write(text)
        print(json.dumps(figure, indent=1), flush=True)


if __name__ == "__main__":
    main()
