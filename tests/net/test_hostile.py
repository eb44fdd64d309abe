# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile applications beside a well-behaved one: whatever they do, its conversations go on byte for byte, the
service lives and answers, and when they are gone nothing of them is left."""
import os
import random
import re
import socket
import sys
import threading
import time

import pytest

from lab import BUILD, PLAIN, scale, stop_process, tool, wait_for

PORT, FAR_PORT = 7, 700
PEER = os.path.join(os.path.dirname(__file__), "peer.py")
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
SANITIZED = "san" in os.path.basename(BUILD) or "address" in os.path.basename(BUILD)

pytestmark = pytest.mark.skipif(PLAIN, reason="needs the service")


class Bystander(threading.Thread):
    """Conversations of an ordinary accelerated server: they must stay FAST, whole, and lively."""

    def __init__(self, lab, conns=3):
        super().__init__(daemon=True)
        self.lab = lab
        lab.run_server([PYTHON, PEER, "echo", PORT], ready="ready")
        self.socks = [lab.connect(PORT) for _ in range(conns)]
        self.flows = {lab.adopt(s)["id"] for s in self.socks}
        self.rounds, self.bytes, self.longest, self.error = 0, 0, 0.0, None
        self.stop = threading.Event()
        self.start()

    def run(self):
        r = random.Random(5)
        try:
            while not self.stop.is_set():
                for s in self.socks:
                    data, got, start = r.randbytes(r.randrange(1, 30000)), b"", time.monotonic()
                    s.settimeout(10)
                    s.sendall(data)
                    while len(got) < len(data):
                        more = s.recv(65536)
                        assert more, "closed after %d of %d bytes" % (len(got), len(data))
                        got += more
                    assert got == data, "wrong bytes"
                    self.longest = max(self.longest, time.monotonic() - start)
                    self.bytes += len(data)
                self.rounds += 1
        except BaseException as e:  # asserted on by lives()
            self.error = e

    def lives(self, rounds=3):
        """It has made some more rounds, on the very flows it began with."""
        want = self.rounds + rounds
        wait_for(lambda: self.rounds >= want or self.error, 10, "%d more rounds" % rounds)
        assert self.error is None, self.error
        assert self.flows <= {f["id"] for f in self.lab.flows("FAST", PORT)}, self.lab.flows()

    def end(self):
        self.stop.set()
        self.join(12)
        for s in self.socks:
            s.close()
        assert not self.is_alive() and self.error is None, self.error


class Far:
    """What the hostile programs connect to, on the client host: an echo, a door that closes, one that never reads."""

    def __init__(self, lab):
        self.lab = lab
        self.addr = lab.sources[0]
        lab.spawn(lab.client, [PYTHON, PEER, "echo", FAR_PORT], ready="ready")
        self.keep = []
        self.unread = []
        for offset, body in ((1, self._close), (2, self.unread.append)):
            s = lab.client.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.bind((self.addr, FAR_PORT + offset))
            s.listen(256)
            threading.Thread(target=self._accept, args=(s, body), daemon=True).start()
            self.keep.append(s)

    @staticmethod
    def _close(conn):
        conn.close()

    @staticmethod
    def _accept(listener, body):
        while True:
            try:
                body(listener.accept()[0])
            except OSError:
                return

    def attack(self, program, mode, seconds=0.5, seed=1, wait=True, timeout=60):
        """Run to its end; {name: [results]} of what it printed."""
        p = self.lab.spawn(self.lab.server, [tool(program), self.lab.socket_path, self.addr, FAR_PORT, mode, seconds,
                                             seed])
        if not wait:
            return p
        out = p.communicate(timeout=timeout)[0].decode(errors="replace")
        rows = {}
        for line in out.splitlines():
            name, _, result = line.partition(" ")
            rows.setdefault(name, []).append(result)
        assert "failed" not in rows, out
        p.results = rows
        return p

    def __call__(self, program, mode, **kw):
        p = self.attack(program, mode, **kw)
        assert p.returncode == 0 and "end" in p.results, (p.returncode, p.results)
        return p.results

    def hang_up(self):
        """On those whose bytes were never read: a peer that keeps its window closed may keep a connection."""
        while self.unread:
            self.unread.pop().close()

    def close(self):
        self.hang_up()
        for s in self.keep:
            s.close()


def process(lab):
    """(descriptors, KiB of anonymous memory) of the service."""
    pid = lab.service.pid
    with open("/proc/%d/status" % pid) as f:
        rss = int(re.search(r"RssAnon:\s+(\d+)", f.read()).group(1))
    return len(os.listdir("/proc/%d/fd" % pid)), rss


class Scene:
    """A lab with a bystander, and what the service held before any attack."""

    def __init__(self, lab):
        self.lab = lab
        self.bystander = Bystander(lab)
        self.far = Far(lab)
        self.bystander.lives()
        self.before = self.holdings()
        self.fds, self.rss = process(lab)

    def holdings(self):
        """What the service has, but for connections in TIME_WAIT: those are nobody's."""
        s = self.lab.tapas("status", "--json")
        return {"apps": s["apps"], "listeners": s["listeners"], "fast": s["flows"]["fast"],
                "adopting": s["flows"]["adopting"], "closing": s["flows"]["closing"], "muted": s["flows"]["muted"]}

    def over(self, fds=2):
        """The hostile one is gone: so is all that it had. The bystander noticed nothing."""
        self.bystander.lives()
        wait_for(lambda: self.holdings() == self.before, 8, "%s again; now: %s; flows: %s" % (
            self.before, self.holdings(), [f for f in self.lab.flows() if f["local_port"] != PORT][:4]), 0.1)
        wait_for(lambda: process(self.lab)[0] <= self.fds + fds, 10, "%d descriptors" % self.fds)
        self.lab.tapas("flows")
        self.lab.tapas("listeners")

    def end(self):
        self.bystander.end()
        self.far.close()
        log = self.lab.log()
        assert "ERROR: AddressSanitizer" not in log and "runtime error" not in log, log[-3000:]


@pytest.fixture
def scene(make_lab):
    s = Scene(make_lab("shared", config={}))
    yield s
    s.end()


@pytest.mark.parametrize("mode", ["soft", "scribble", "bells"])
def test_scribbled_memory(scene, mode):
    for seed in range(scale(20, 3)):
        result = scene.far("hostile_app", mode, seconds=scale(2, 0.5), seed=seed)[mode][0]
        if mode != "scribble":  # no record was touched: it is served as before
            assert result.split()[0] == "open" and int(result.split()[1]) > 0, result
        scene.bystander.lives()
    if mode == "scribble":
        assert scene.lab.counters()["app_bad_record"] > 0
    scene.over()


def test_given_back_while_scribbled(scene):
    """Its slots name descriptors at random, say "busy", and are given back to Linux all the same."""
    for seed in range(scale(20, 3)):
        p = scene.far.attack("hostile_app", "soft", seconds=1.0, seed=seed, wait=False)
        wait_for(lambda: any(f["pid"] == p.pid for f in scene.lab.flows("FAST")), 5, "its connections FAST")
        time.sleep(0.1)
        assert scene.lab.tapas("release", str(p.pid), "--json")["released"] > 0
        out = p.communicate(timeout=20)[0].decode()
        assert p.returncode == 0 and "end" in out, out
    wait_for(lambda: scene.lab.counters()["returned"] >= scale(20, 3), 3, "connections returned")
    scene.over()


FORGED = {"send-back": "closed", "send-too-much": "closed", "send-wraps": "closed", "send-sign": "closed",
          "send-4g": "closed", "send-frozen": "closed", "read-back": "closed", "read-ahead": "closed",
          "read-wraps": "closed", "context": "closed", "context-max": "closed", "opts": "closed", "want": "closed",
          "status-dead": "open", "other-slots-fast": "open"}


def test_forged_records(scene):
    before = scene.lab.counters()["app_bad_record"]
    results = scene.far("hostile_app", "forge")
    assert {k: v[0] for k, v in results.items() if k != "end"} == FORGED
    assert scene.lab.counters()["app_bad_record"] - before == list(FORGED.values()).count("closed")
    scene.over()


OPEN_TALK = {"adopt-other-slot", "return-twice", "listen-many", "unlisten-many", "capture-unread", "admin-unknown"}


def test_misused_control_socket(scene):
    results = {k: v[0] for k, v in scene.far("hostile_talk", "talk").items() if k != "end"}
    assert len(results) >= 33
    results.pop("return-other")  # its slot is in use still, or again, when it is named for another socket
    assert results == {k: "open" if k in OPEN_TALK else "closed" for k in results}
    scene.over()


def test_odd_descriptors(scene):
    """Each is answered, none is adopted, and what is returned says so."""
    refused, returned = 3, 4
    results = scene.far("hostile_talk", "odd")
    assert results.pop("odd") == ["open"]
    rows = {k: list(map(int, v[0].split())) for k, v in results.items() if v[0] and v[0] != "done"}
    assert len(rows) >= 24
    assert {k: (r[0], r[2]) for k, r in rows.items()} == {k: (refused, returned) for k in rows}
    scene.over()


def test_memory_games(scene):
    results = scene.far("hostile_app", "memory", seconds=scale(3, 0.5))
    results.pop("memory")  # the hole in its own records is its own affair
    assert {k for k, v in results.items() if "broken" in v} == set(), results
    scene.over()


def test_stopped(scene):
    p = scene.far.attack("hostile_app", "stop", wait=False)
    wait_for(lambda: open("/proc/%d/stat" % p.pid).read().rsplit(")", 1)[1].split()[0] == "T", 10, "stopped")
    scene.bystander.lives(10)
    stop_process(p, 3.0, 9)
    scene.over()


def test_killed_at_any_moment(scene):
    for seed in range(scale(100, 12)):
        p = scene.far.attack("hostile_app", "die", seed=seed)
        assert p.returncode == -9, (p.returncode, p.results)
        scene.lab.tapas("flows")
    scene.over()


def test_gone_while_being_adopted(make_lab):
    """Linux does not answer, and the application ends: the service remembers nothing of it."""
    lab = make_lab("shared", config={"test": {"fail_adopt_every": 1, "fail_adopt_step": 5}})
    far, adopting = Far(lab), "1"
    fds = process(lab)[0]
    for _ in range(3):
        assert far("hostile_app", "hasty")["hasty"] == [adopting]
        wait_for(lambda: lab.tapas("status", "--json")["apps"] == 0, 3, "no application left")
        assert lab.flows() == []
    assert lab.counters()["adopt_rolled_back"] == 48
    wait_for(lambda: process(lab)[0] <= fds + 2, 10, "%d descriptors" % fds)
    far.close()


def test_nothing_sleeps_for_it(scene):
    """Neither a write to a full eventfd nor the close of a lingering socket may hold up anybody else."""
    scene.bystander.longest = 0.0
    scene.far("hostile_talk", "stuck", seconds=1)
    scene.bystander.lives()
    assert scene.bystander.longest < 5
    scene.far.hang_up()
    scene.over()


def test_nothing_grows(scene):
    """The same attacks again and again: neither descriptors nor memory pile up."""
    attacks = [("hostile_app", "scribble", 0.05), ("hostile_talk", "odd", 0.1), ("hostile_app", "die", 0.1),
               ("hostile_app", "hasty", 0.1)]
    fds = rss = 0
    for i in range(scale(80, 20)):
        program, mode, seconds = attacks[i % len(attacks)]
        scene.far.attack(program, mode, seconds=seconds, seed=i)
        if i == len(attacks) * 2 - 1:
            scene.over()
            fds, rss = process(scene.lab)
    scene.over()
    wait_for(lambda: process(scene.lab)[0] <= fds + 2, 10, "%d descriptors" % fds)
    now = process(scene.lab)
    assert SANITIZED or now[1] <= rss + 2048, (rss, now)
