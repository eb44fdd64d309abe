# SPDX-License-Identifier: GPL-2.0-or-later
"""A hostile program at one end of local connections: the honest one at the other end sees its bytes, their end or a
reset, and never waits for it; a conversation of two other programs goes on byte for byte, and when it is gone nothing
of it is left in the service."""
import json
import time

import pytest

from actors import Cast
from lab import PLAIN, scale, tool, wait_for
from test_hostile import FORGED, process

ENDS = {"end", "ECONNRESET", "EPIPE", "ECONNABORTED"}

pytestmark = pytest.mark.skipif(PLAIN, reason="needs the service")

# in the honest program: an echo that notes how each connection ended
WITNESS = """
seen, opened = [], []

def step(sel, s, kept):
    if kept[0]:
        kept[0] = kept[0][s.send(kept[0]):]
    else:
        kept[0] = s.recv(65536)
        kept[1] += len(kept[0])
        if not kept[0]:
            return "end"
    sel.modify(s, selectors.EVENT_WRITE if kept[0] else selectors.EVENT_READ, kept)
    return ""

def witness(listener):
    sel = selectors.DefaultSelector()
    sel.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in sel.select():
            s = key.fileobj
            if s is listener:
                s, _ = listener.accept()
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                s.setblocking(False)
                opened.append(s)
                sel.register(s, selectors.EVENT_READ, [b"", 0])
                continue
            try:
                how = step(sel, s, key.data)
            except BlockingIOError:
                continue
            except OSError as e:
                how = errno.errorcode[e.errno]
            if how:
                seen.append([key.data[1], how])
                sel.unregister(s)
                s.close()
"""

# in the bystander: a known stream there and back, for ever
TALKER = """
talk = {"rounds": 0, "longest": 0.0, "error": ""}

def talking(s):
    at = 0
    while not talk["error"]:
        start = time.monotonic()
        n = 1 + talk["rounds"] * 7919 % 30000
        got, why = dialogue(s, 5, [n]) if not at else piece(s, at, n)
        if why:
            talk["error"] = "%d bytes, then %s" % (at + got, why)
        at += n
        talk["rounds"] += 1
        talk["longest"] = max(talk["longest"], time.monotonic() - start)

def piece(s, at, n):
    t = threading.Thread(target=give, args=(s, 5, n, 65536, at))
    t.start()
    got = take(s, 5, n, 65536, at)
    t.join()
    return got
"""


class Scene:
    """An honest echo that is to be attacked, two programs that have nothing to do with it, and a service."""

    def __init__(self, lab):
        self.lab, self.cast = lab, Cast(lab)
        self.honest, self.a, self.b = (self.cast.start(name) for name in ("honest", "a", "b"))
        self.honest(WITNESS)
        self.port = self.honest("(l := socket.create_server(('127.0.0.1', 0), backlog=100)).getsockname()[1]")
        self.honest("background('witness', witness, l)")
        self.b(TALKER)
        self.other = self.cast.connect(self.a, self.b)
        self.a("background('echo', echo, %s)" % self.other.server)
        self.b("background('talking', talking, %s)" % self.other.client)
        self.lives()
        self.before = self.holdings()
        self.fds, _ = process(lab)

    def holdings(self):
        s = self.lab.tapas("status", "--json")
        return {"apps": s["apps"], **{k: s["flows"][k] for k in ("fast", "adopting", "closing")}}

    def lives(self, rounds=3):
        """The bystanders have made some more rounds, in memory."""
        want = self.b("talk['rounds']") + rounds
        wait_for(lambda: self.b("talk['error']") or self.b("talk['rounds']") >= want, 15, "%d more rounds" % rounds)
        assert self.b("talk['error']") == ""
        assert len(self.other.flows()) == 2, self.lab.flows()

    def start(self, program, mode, seconds=0.5, seed=1, ready=None):
        return self.lab.spawn(self.lab.server, [tool(program), self.lab.socket_path, "127.0.0.1", self.port, mode,
                                                seconds, seed], ready=ready)

    def finish(self, p, timeout=60):
        """What it printed, {name: [results]}; the honest program has seen an end of all its connections."""
        out = p.communicate(timeout=timeout)[0].decode(errors="replace")
        rows = {}
        for line in out.splitlines():
            name, _, result = line.partition(" ")
            rows.setdefault(name, []).append(result)
        assert "failed" not in rows, (out, self.lab.flows())
        self.ended()
        return rows

    def attack(self, program, mode, **kw):
        p = self.start(program, mode, **kw)
        rows = self.finish(p)
        assert p.returncode == 0 and "end" in rows, (p.returncode, rows)
        return rows

    def seen(self):
        return json.loads(self.honest("json.dumps(seen)"))

    def ended(self, timeout=8):
        wait_for(lambda: len(self.seen()) == self.honest("len(opened)"), timeout,
                 "an end of each connection: %s" % self.lab.flows(), 0.1)
        assert {how for _, how in self.seen()} <= ENDS, self.seen()

    def over(self):
        """Nothing is left, and nobody has noticed."""
        self.lives()
        wait_for(lambda: self.holdings() == self.before, 10, "%s again: %s" % (self.before, self.lab.flows()), 0.1)
        wait_for(lambda: process(self.lab)[0] <= self.fds + 2, 10, "%d descriptors" % self.fds)

    def end(self):
        self.cast.close()
        log = self.lab.log()
        assert "ERROR: AddressSanitizer" not in log and "runtime error" not in log, log[-3000:]


@pytest.fixture(params=["service", "direct"])
def scene(make_lab, request):
    s = Scene(make_lab("shared", config={"service": {"local": request.param}}))
    yield s
    s.end()


@pytest.mark.parametrize("mode", ["soft", "scribble", "bells"])
def test_scribbled_memory(scene, mode):
    for seed in range(scale(20, 3)):
        result = scene.attack("hostile_app", mode, seconds=scale(2, 0.5), seed=seed)[mode][0]
        if mode != "scribble":
            assert result.split()[0] == "open" and int(result.split()[1]) > 0, result
        scene.lives()
    if mode == "scribble":
        assert scene.lab.counters()["app_bad_record"] > 0
    scene.over()


def test_forged_records(scene):
    """Each ends the forger's own dealings; its connections at the honest end are reset."""
    before = scene.lab.counters()["app_bad_record"]
    results = scene.attack("hostile_app", "forge")
    assert {k: v[0] for k, v in results.items() if k != "end"} == FORGED
    closed = list(FORGED.values()).count("closed")
    assert scene.lab.counters()["app_bad_record"] - before == closed
    assert [how for _, how in scene.seen()].count("ECONNRESET") >= closed, scene.seen()
    scene.over()


def test_memory_games(scene):
    results = scene.attack("hostile_app", "memory", seconds=scale(3, 0.5))
    results.pop("memory")  # the hole in its own records is its own affair
    assert {k for k, v in results.items() if "broken" in v} == set(), results
    scene.over()


def test_looked_at_without_end(scene):
    """Each look costs the service questions to Linux: others are heard all the same."""
    results = scene.attack("hostile_local", "look", seconds=scale(5, 1))
    how, got, looks = results["look"][0].split()
    assert how == "open" and int(got) > 0 and int(looks) > 100, results
    assert results["look-range"] == ["closed"]
    assert scene.b("talk['longest']") < 5
    scene.over()


def test_changed_while_copied(scene):
    how, got, times = scene.attack("hostile_local", "under", seconds=scale(5, 1))["under"][0].split()
    assert how == "open" and int(got) > 0 and int(times) > 100
    assert scene.lab.counters()["app_bad_record"] == 0
    scene.over()


def test_common_memory(scene):
    """It has the memory that it shares with the honest program, and nobody else's; what it does there it does to itself."""
    results = scene.attack("hostile_local", "regions", seconds=scale(5, 1))
    own, foreign, times = map(int, results["regions"][0].split())
    assert foreign == 0 and results["regions-range"] == ["closed"]
    if scene.lab.config["service"]["local"] == "direct":
        assert own == 1 and times > 10
    scene.over()


def test_says_that_it_reads_nothing_more(scene):
    """Bytes in its kernel queue are taken for stray ones: that gives its connections back, and harms nobody's order."""
    assert scene.attack("hostile_local", "drained", seconds=scale(5, 1))["drained"] == ["open"]
    assert scene.lab.counters()["returned"] > 0
    scene.over()


def test_before_both_are_there(scene):
    for seed in range(scale(40, 4)):
        assert int(scene.attack("hostile_local", "early", seconds=1, seed=seed)["early"][0]) > 0
        scene.lives(1)
    scene.over()


def test_back_and_forth(scene):
    for seed in range(scale(20, 2)):
        assert scene.attack("hostile_local", "swing", seconds=scale(3, 1), seed=seed)["swing"][0].split()[1] != "0"
        scene.lives(1)
    assert scene.lab.counters()["returned"] > 0
    scene.over()


def test_killed_at_any_moment(scene):
    for seed in range(scale(100, 12)):
        p = scene.start("hostile_app", "die", seed=seed)
        scene.finish(p)
        assert p.returncode == -9
    scene.over()


def test_stopped(scene):
    """The honest end has its connections back in Linux although the other one does not run."""
    p = scene.start("hostile_app", "stop")
    wait_for(lambda: open("/proc/%d/stat" % p.pid).read().rsplit(")", 1)[1].split()[0] == "T", 10, "stopped")
    scene.lives(10)
    scene.lab.tapas("release", str(scene.honest.pid))
    wait_for(lambda: not [f for f in scene.lab.flows("FAST") if f["local_port"] == scene.port], 5, "no FAST end left")
    p.kill()
    scene.finish(p)
    scene.over()


def test_hidden(scene):
    """Who has his sockets where the service cannot have them does not keep the honest end from its call."""
    p = scene.start("hostile_local", "hide", seconds=60, ready="hidden")
    wait_for(lambda: len([f for f in scene.lab.flows("FAST") if f["local_port"] == scene.port]) == 4, 5, "FAST")
    scene.honest("background('hand', lambda: opened[0].send(b'x', socket.MSG_OOB))")
    assert scene.honest("joined('hand', 20)") in (1, "EBADF", *ENDS)  # the witness may have closed it first
    scene.lab.tapas("release", str(scene.honest.pid))
    wait_for(lambda: len(scene.seen()) == 4, 10, "an end of each: %s" % scene.lab.flows(), 0.1)
    # of the one that two threads use, one has been told of the reset already
    assert [how for _, how in scene.seen()].count("ECONNRESET") >= 3, scene.seen()
    assert p.poll() is None
    p.kill()
    scene.finish(p)
    scene.over()
