# SPDX-License-Identifier: GPL-2.0-or-later
"""No hang under preemption: the service and the program share one core, their nice values differ and change, and both
are stopped and let go on at any moment, while a few connections speak. A connection that makes no step for much longer
than anything was stopped is a stall, and what can be seen of it is printed."""
import json
import math
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest

from lab import Lab, scale, tool, wait_for

PORT = 9000
STALL_S = 5


class Pushed:
    """Chance stops a process, lets it go on, and makes it nicer or less nice than the other, on one core."""

    def __init__(self, pids, seed):
        self.pids, self.rnd, self.done = pids, random.Random(seed), threading.Event()
        self.stops, self.longest_s = 0, 0.0
        self.hold = threading.Lock()  # taken: everything runs
        for pid in pids:
            for tid in self.threads(pid):
                os.sched_setaffinity(tid, {min(os.sched_getaffinity(0))})
        self.thread = threading.Thread(target=self.body, daemon=True)

    @staticmethod
    def threads(pid):
        return [int(t) for t in os.listdir("/proc/%d/task" % pid)]

    def nice(self):
        for pid in self.pids:
            value = self.rnd.choice((0, 0, 5, 10, 19))
            for tid in self.threads(pid):
                try:
                    os.setpriority(os.PRIO_PROCESS, tid, value)
                except ProcessLookupError:  # a thread that has just ended
                    pass

    def body(self):
        while not self.done.is_set():
            with self.hold:
                if self.rnd.random() < 0.1:
                    self.nice()
                which = self.rnd.sample(self.pids, self.rnd.choice((1, 1, 1, len(self.pids))))
                length = math.exp(self.rnd.uniform(math.log(0.001), math.log(0.2)))
                for pid in which:
                    os.kill(pid, signal.SIGSTOP)
                time.sleep(length)
                for pid in which:
                    os.kill(pid, signal.SIGCONT)
                self.stops += 1
                self.longest_s = max(self.longest_s, length)
            self.done.wait(self.rnd.choice((0.001, 0.005, 0.05, 0.2)) * self.rnd.random())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.done.set()
        self.thread.join(10)


class Watched:
    """The client's words: its reports of stalls as they come, each with a picture of both hosts, and its last line."""

    def __init__(self, lab, client, pids, pushed):
        self.lab, self.client, self.pids, self.pushed = lab, client, pids, pushed
        self.stalls, self.last = [], None
        self.thread = threading.Thread(target=self.body, daemon=True)
        self.thread.start()

    def body(self):
        for line in self.client.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                print("client:", line)
                continue
            if "stall" not in said:
                self.last = said
                continue
            self.stalls.append(said)
            if len(self.stalls) <= 3:
                with self.pushed.hold:
                    print("STALL", said)
                    self.picture()

    def picture(self):
        print(self.lab.picture())
        for h in self.lab.hosts[:2]:
            print(h.run(["ss", "-tinpem"], check=False).stdout[:20000])
        for pid in self.pids:
            for what in ("status", "wchan", "stat"):
                with open("/proc/%d/%s" % (pid, what)) as f:
                    print(pid, what, f.read())
            if shutil.which("gdb"):
                r = subprocess.run(["gdb", "-p", str(pid), "-batch", "-ex", "thread apply all bt 12"], timeout=60,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                print(r.stdout[-12000:])

    def end(self, timeout):
        self.client.send_signal(signal.SIGTERM)
        self.client.wait(timeout)
        self.thread.join(10)
        return self.last


def load(lab, at_once, wait, seconds, seed, port=PORT):
    """So many connections at a time, half of which speak in turn; every byte compared. Returns what the clients said."""
    server = lab.run_server([tool("talk"), "server", port, seconds + 120, "wait=" + wait], ready="ready")
    pids = [server.pid] + ([lab.service.pid] if lab.service else [])
    parts = [(n, turns) for n, turns in (((at_once + 1) // 2, ["turns=1"]), (at_once // 2, [])) if n]
    with Pushed(pids, seed) as pushed:
        watched = []
        for i, (n, turns) in enumerate(parts):
            argv = [tool("talk"), "client", lab.addr, port, 0, n, 60000 if turns else 1 << 20, seed + i,
                    int(seconds) + 60, "stall=%d" % (1000 * STALL_S), *turns]
            watched.append(Watched(lab, lab.spawn(lab.client, argv), pids, pushed))
        time.sleep(seconds)
        said = [w.end(70) for w in watched]
    server.send_signal(signal.SIGTERM)
    server.wait(10)
    assert pushed.stops > 0
    return said, [s for w in watched for s in w.stalls], pushed


@pytest.mark.parametrize("at_once", [1, 2, 16])
def test_no_stall(make_lab, at_once):
    lab = make_lab("shared")
    waits = ("lt", "et", "oneshot", "recv")
    each = scale(150, 0.6)
    said, stalls, longest = [], [], {}
    for i, wait in enumerate(waits):
        one, some, pushed = load(lab, at_once, wait, each, 100 + i, PORT + i)
        said += one
        stalls += [dict(s, wait=wait) for s in some]
        longest[wait] = max(x["longest_ms"] for x in one)
        print("%d connections, %s: %d stops of up to %.0f ms; %s" % (at_once, wait, pushed.stops,
                                                                    1000 * pushed.longest_s, one))
    assert all(x["bad"] == x["odd"] == x["live"] == 0 and x["ok"] > 0 for x in said), said
    if lab.plain:
        return
    c = lab.counters()
    assert c["adopted"] >= len(waits) * at_once and c["rx_bytes"] > 0, {k: v for k, v in c.items() if v}
    wait_for(lambda: lab.status()["fast"] == 0, 10, "all flows closed: %s" % lab.flows()[:3])
    with Lab("plain") as plain:
        _, usual, _ = load(plain, at_once, "lt", scale(60, 0.6), 100)
    assert len(stalls) <= len(usual), stalls
