# SPDX-License-Identifier: GPL-2.0-or-later
"""Return: live connections go back to Linux on their own descriptors and are adopted again, at any moment of a
conversation, with bytes in flight both ways; and all of them when the service stops."""
import json
import os
import random
import re
import signal
import struct
import sys
import threading
import time

import pytest

from frames import RST, SYN, Wire
from lab import BUILD, echo_once, scale, tool, wait_for
from test_adopt import BAD_WIRES, finish, kept_promises, talk
from test_firewall import fast_conversation

PORT = 9000
PEER = os.path.join(os.path.dirname(__file__), "peer.py")
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


class Releasing:
    """`tapas release --all` again and again while something else runs."""

    def __init__(self, lab, every=0.05):
        self.lab, self.every, self.n, self.stop = lab, every, 0, threading.Event()
        self.thread = threading.Thread(target=self.body, daemon=True)

    def body(self):
        while not self.stop.wait(self.every):
            self.n += self.lab.tapas("release", "--all", "--json")["released"]

    def __enter__(self):
        if not self.lab.plain:
            self.thread.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        if self.thread.is_alive():
            self.thread.join(10)


class ReleasingSome(Releasing):
    """`tapas release flow ID` of single connections, picked by chance."""

    def body(self):
        rnd = random.Random(8)
        while not self.stop.wait(self.every):
            rows = self.lab.flows("FAST")
            for f in rnd.sample(rows, min(len(rows), rnd.randint(1, 4))):
                # it may just have ended by itself, which is an error of the command
                out = self.lab.server.run([os.path.join(BUILD, "tapas"), "release", "flow", f["id"], "--json"],
                                          env=self.lab.env(), check=False).stdout
                self.n += json.loads(out)["released"] if out else 0

    def times(self, least, timeout):
        """Wait until that many have really gone back."""
        if self.lab.plain:
            time.sleep(1)
        else:
            wait_for(lambda: self.lab.counters()["returned"] >= least, timeout, "%d returns" % least, step=0.1)


def returned(lab, least, clean=True):
    if lab.plain:
        return
    c = lab.counters()
    assert c["returned"] >= least, {k: v for k, v in c.items() if v}
    assert c["return_failed"] == 0, [x for x in lab.log().splitlines() if "lost" in x]
    assert not clean or c["flow_reset"] == 0, {k: v for k, v in c.items() if v}
    wait_for(lambda: lab.status()["fast"] == 0, 5, "all flows closed: %s" % lab.flows()[:3])


@pytest.mark.parametrize("reverse", [False, True], ids=["server", "client"])
def test_conversations(lab, reverse):
    """Every byte of conversations whose connections leave and come back all the time."""
    total = scale(4000, 400)
    with Releasing(lab) as r:
        talk(lab, total, 40, 400000, 21, reverse=reverse)
    returned(lab, scale(1000, 50))
    assert lab.plain or r.n >= scale(1000, 50)


def test_large_streams(lab):
    with Releasing(lab, 0.1):
        talk(lab, scale(40, 12), 6, scale(8 << 20, 4 << 20), 5)
    returned(lab, 10)


def timestamps(segment):
    """(TSval, TSecr) of a segment, or None."""
    o = segment.options
    while o and o[0]:
        if o[0] == 8:
            return struct.unpack_from("!II", o, 2)
        o = o[1:] if o[0] == 1 else o[max(o[1], 2):]
    return None


def test_timestamps(lab):
    """A connection that goes back in the middle of a stream knows the peer's clock from its first segment on."""
    wire, stop, seen, wrong = Wire(lab.client), threading.Event(), [], []

    def watch():
        while not stop.is_set():
            for s in wire.segments(0.05, PORT):
                t = None if s.outgoing or s.flags & (SYN | RST) else timestamps(s)
                if t:
                    seen.append(t)
                if t and not t[1]:
                    wrong.append((s.dport, s.seq, s.ack, len(s.payload), t))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        with Releasing(lab, 0.03):
            talk(lab, 12, 6, 4 << 20, 6)
    finally:
        stop.set()
        thread.join(10)
        wire.close()
    returned(lab, 10)
    assert len(seen) > 1000 and not wrong, (len(seen), len(wrong), wrong[:5])


@pytest.mark.parametrize("wire", list(BAD_WIRES))
def test_bad_wire(make_lab, wire):
    lab = make_lab("shared", middlebox=BAD_WIRES[wire])
    with Releasing(lab):
        talk(lab, scale(600, 80), 30, 100000, 3, seconds=90)
    kept_promises(lab)
    returned(lab, 10, clean=False)


def test_conntrack_strict(make_lab):
    """A rule that drops what conntrack calls invalid must not meet a returned connection."""
    nft = ("table inet t { chain i { type filter hook input priority 0; policy accept; ct state invalid drop; } "
           "chain o { type filter hook output priority 0; policy accept; ct state invalid drop; } }")
    lab = make_lab("shared", nft=nft)
    with Releasing(lab):
        talk(lab, scale(1000, 150), 30, 200000, 9)
    returned(lab, 20)


def test_service_stops(lab):
    """SIGTERM: every connection goes on in Linux."""
    if lab.plain:
        pytest.skip("needs the service")
    server = lab.run_server([tool("talk"), "server", PORT], ready="ready")
    argv = [tool("talk"), "client", lab.addr, PORT, 60, 60, scale(8 << 20, 3 << 20), 77, 60]
    client = lab.spawn(lab.client, argv)
    wait_for(lambda: lab.status()["fast"] >= 40, 10, "40 FAST connections")
    lab.stop_service()
    out, _ = client.communicate(timeout=70)
    assert client.returncode == 0, out
    assert finish(server)["bad"] == 0


def test_service_stops_program_stopped(lab):
    """The same while the program is stopped by SIGSTOP: its connections are Linux's when it goes on."""
    if lab.plain:
        pytest.skip("needs the service")
    c = fast_conversation(lab)
    c.speaking(time.monotonic())
    c.server.send_signal(signal.SIGSTOP)
    lab.stop_service()
    time.sleep(0.3)
    c.server.send_signal(signal.SIGCONT)
    c.speaking(time.monotonic())
    c.in_order()
    c.close()


def test_once(lab):
    """One connection that speaks both ways every few milliseconds, back and forth many times."""
    if lab.plain:
        pytest.skip("needs the service")
    c = fast_conversation(lab)
    for _ in range(scale(200, 20)):
        lab.tapas("release", "--all")
        c.speaking(time.monotonic())
        wait_for(lambda: lab.flows("FAST"), 3, "adopted again")
    c.in_order()
    c.close()
    assert lab.counters()["returned"] >= scale(200, 20)


@pytest.mark.parametrize("wire", [None, ["delay=10000"]], ids=["near", "far"])
def test_as_it_was(make_lab, wire):
    """A connection given back sends segments as long as before, and knows how long the peer takes to answer: without
    that, Linux waits for seconds before it repeats a lost one."""
    lab = make_lab("shared", middlebox=wire)
    if lab.plain:
        pytest.skip("needs the service")
    lab.run_server([PYTHON, PEER, "echo", PORT], ready="ready")
    s = lab.connect(PORT)
    lab.adopt(s)
    for _ in range(20):
        echo_once(s, b"x" * 3000)
    rows = lab.shadows(PORT)
    assert lab.tapas("release", "--all", "--json")["released"] == len(rows) == 1
    wait_for(lambda: 200 <= lab.shadows(PORT)[0].get("rto", 0) <= 500, 3, "an estimate: %s" % lab.shadows(PORT))
    wait_for(lambda: not lab.shadows(PORT)[0].get("unacked"), 3, "all acknowledged: %s" % lab.shadows(PORT))
    assert lab.shadows(PORT)[0]["mss"] == rows[0]["mss"] == 1448, (rows, lab.shadows(PORT))
    for _ in range(20):
        echo_once(s, b"x" * 3000)
    s.close()


def results(p, timeout):
    """The line of JSON that talk leaves at its end."""
    out, _ = p.communicate(timeout=timeout)
    return json.loads([x for x in out.decode().splitlines() if x.startswith('{"ok"')][-1])


@pytest.mark.parametrize("turns", [[], ["turns=1"]], ids=["both at once", "in turn"])
@pytest.mark.parametrize("wait", ["recv", "lt", "et", "oneshot"])
def test_single_flows(make_lab, wait, turns):
    """Single connections go back and are adopted again, at any moment, on a wire that loses one frame in a hundred,
    while threads wait in every way: no byte, no event and no errno that Linux would not have given."""
    lab = make_lab("shared", middlebox=["drop=1", "seed=31"])
    server = lab.run_server([tool("talk"), "server", PORT, "wait=" + wait], ready="ready")
    size = 400000 if turns else 2 << 20
    argv = [tool("talk"), "client", lab.addr, PORT, 0, 12, size, 41, scale(400, 60), *turns]
    client = lab.spawn(lab.client, argv)
    least = scale(1000, 20)

    def again():
        return lab.counters()["adopted"] - len(set(re.findall(r"(\S+ > \S+): adopting to fast", lab.log())))

    with ReleasingSome(lab, 0.01) as r:
        r.times(least, scale(300, 40))
        wait_for(lambda: lab.plain or again() >= least // 4, scale(300, 40), "adopted again", step=0.1)
    client.send_signal(signal.SIGTERM)
    here = results(client, 90)
    wait_for(lambda: lab.plain or lab.status()["fast"] == 0, 10, "the last FINs, which may have been lost, at the server")
    there = finish(server)
    print(wait, turns, here, there)
    assert here["bad"] == here["odd"] == 0 and here["live"] == 0, (here, there)
    assert there["bad"] == there["odd"] == 0, (here, there)
    if not lab.plain:
        returned(lab, least)


def test_service_stops_busy(lab):
    """SIGTERM among many busy connections, some of whose programs are stopped by SIGSTOP at the time: all of them go on,
    and the longest that any of them stood still is said."""
    if lab.plain:
        pytest.skip("needs the service")
    each, programs = scale(200, 20), 5
    servers = [lab.run_server([tool("talk"), "server", PORT + i], ready="ready") for i in range(programs)]
    size = 3 << 20
    clients = [lab.spawn(lab.client, [tool("talk"), "client", lab.addr, PORT + i, each, each, size, 50 + i, 150])
               for i in range(programs)]
    wait_for(lambda: lab.status()["fast"] >= 0.7 * each * programs, 30, "%d FAST connections" % (each * programs))
    for p in servers[::2]:
        p.send_signal(signal.SIGSTOP)
    before = lab.status()
    start = time.monotonic()
    assert lab.stop_service() == 0
    took = time.monotonic() - start
    time.sleep(0.5)
    for p in servers[::2]:
        p.send_signal(signal.SIGCONT)
    stopped = time.monotonic() - start
    here = [results(c, 170) for c in clients]
    there = [finish(p) for p in servers]
    print("FAST: %d; stop of the service: %.2f s; programs stopped: %.2f s; longest pauses (ms): %s" % (
        before["fast"], took, stopped, [x["longest_ms"] for x in here]))
    assert before["fast"] > each * programs // 2, before
    assert all(x["ok"] == each and x["bad"] == x["odd"] == 0 for x in here), (here, there)
    assert all(x["bad"] == x["odd"] == 0 for x in there), (here, there)
    assert all(x["longest_ms"] < 10000 + 1000 * stopped for x in here), here
