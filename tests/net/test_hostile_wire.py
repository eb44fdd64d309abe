# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames that no socket would send, into a FAST connection and, the same ones, into a connection of Linux's own: the
conversation goes on with the right bytes, or ends, on both alike."""
import os
import random
import struct
import sys
import time

import pytest

from frames import ACK, FIN, PSH, RST, SYN
from lab import PLAIN, scale
from rawpeer import RawHost, RawPeer

PORT, PLAIN_PORT = 7, 77
PEER = os.path.join(os.path.dirname(__file__), "peer.py")
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
URG = 32
GARBAGE = b"?" * 40

pytestmark = pytest.mark.skipif(PLAIN, reason="needs the service")


def empties(**lists):
    """One empty segment for each value of the one argument."""
    (name, values), = lists.items()
    return lambda p: [{name: v(p) if callable(v) else v} for v in values]


def at_seq(flags, *offsets, payload=b""):
    """Segments with these flags at these distances from RCV.NXT; "wnd": from the right edge of the window."""
    def make(p):
        far = [o if isinstance(o, int) else p.window + int(o[3:] or 0) for o in offsets]
        return [{"flags": flags, "seq": p.seq + o, "payload": payload} for o in far]
    return make


def options(*raw):
    """Old empty segments with these options, filled up to whole words."""
    return lambda p: [{"options": o + b"\1" * (-len(o) % 4), "seq": p.seq - 1} for o in raw]


def icmp_all(p):
    return [("icmp", t, c, rest, seq) for t in (3, 11, 12, 4) for c in range(16 if t == 3 else 2)
            for rest in (0, 68, 1400, 0xffff) for seq in (p.ack, p.ack - 1, p.ack + 100000)]


SACKS = [struct.pack("!BB%dI" % len(v), 5, 2 + 4 * len(v), *v) for v in
         ([0, 0], [0xffffffff, 0], [5, 4, 3, 2], [0x80000000, 0x7fffffff], list(range(6)))]
BAD_OPTIONS = [b"\5\0", b"\5\1", b"\5\x28", b"\2\4", b"\xfe\x02\xfe\x00", b"\x08\x09" + bytes(8), b"\1" * 40,
               b"\0" + b"\xff" * 39, b"\xff" * 40, b"\3\3\xff", b"\2\4\0\0", b"\x1e\x0c" + bytes(10), b"\x13\x12" + bytes(16)]

# name: frames; the outcome must be what Linux's is
CASES = {
    "rst-exact": at_seq(RST, 0),
    "rst-ack-exact": at_seq(RST | ACK, 0),
    "rst-in-window": at_seq(RST, 1, 1000, "wnd-1"),
    "rst-edge": at_seq(RST, "wnd"),
    "rst-out": at_seq(RST, -1, -100000, "wnd1", "wnd100000", 1 << 31),
    "syn": at_seq(SYN, 0, 1, -1, 1000, "wnd1000"),
    "syn-ack": at_seq(SYN | ACK, 0, 1, -1, 1000, "wnd1000"),
    "syn-rst": at_seq(SYN | RST, -1, 1, 1000),
    "fin-exact": at_seq(FIN | ACK, 0),
    "fin-old": at_seq(FIN | ACK, -1, -2, -1000),
    "fin-beyond": at_seq(FIN | ACK, "wnd10", 1 << 31),
    "fin-no-ack": at_seq(FIN, 0),
    "ack-unsent": lambda p: [{"ack": p.ack + n} for n in (1, 1000, 1 << 30, (1 << 31) - 1)],
    "ack-unsent-data": lambda p: [{"ack": p.ack + 1, "payload": GARBAGE}],
    "ack-ancient-data": lambda p: [{"ack": p.ack - (1 << 30), "payload": GARBAGE}],
    "ack-old": lambda p: [{"ack": p.ack - n} for n in (1, 7, 100)] * 5,
    "duplicate-acks": lambda p: [{}] * 50,
    "window": empties(window=[0, 1, 65535, 0, 3, 512]),
    "window-old": lambda p: [{"window": 0, "seq": p.seq - 1}],
    "no-flags": at_seq(0, 0, -1, 1, payload=GARBAGE),
    "data-without-ack": at_seq(PSH, 0, payload=GARBAGE),
    "data-old": at_seq(ACK, -40, -41, -100, -100000, payload=GARBAGE),
    "data-beyond": at_seq(ACK, "wnd1", "wnd100", 1 << 30, payload=GARBAGE),
    "checksum": lambda p: [{"payload": GARBAGE, "tcp_sum": v} for v in (0, 1, 0xffff, 0x1234)],
    "checksum-ip": lambda p: [{"payload": GARBAGE, "ip_sum": v} for v in (0, 1, 0xffff)],
    "data-offset": lambda p: [{"payload": GARBAGE, "doff": v} for v in (0, 1, 4)],
    "data-offset-over": lambda p: [{"doff": 15}, {"doff": 15, "options": b""}],
    "cut": lambda p: [{"cut": n, "payload": GARBAGE} for n in (14, 15, 20, 33, 34, 35, 40, 47, 53, 54, 60, 65)],
    "length-lies": lambda p: [{"total": n, "payload": GARBAGE} for n in (0, 1, 19, 20, 30, 39, 65535, 200)],
    "ip-version": lambda p: [{"payload": GARBAGE, "version": v} for v in (0, 6, 15)],
    "ip-header-length": lambda p: [{"payload": GARBAGE, "ihl": v} for v in (0, 4, 15)],
    "ip-options": lambda p: [{"ip_options": o, "seq": p.seq - 1} for o in (b"\1\1\1\1", b"\7\7\4\0\0\0\0\0", b"\xff" * 4)],
    "fragments": lambda p: [{"frag": f, "seq": p.seq - 1} for f in (0x2000, 0x2001, 1, 0x1fff, 0x3fff)],
    "ttl": lambda p: [{"ttl": t, "seq": p.seq - 1} for t in (0, 1)],
    "mac-other": lambda p: [{"dmac": m, "payload": GARBAGE} for m in (bytes.fromhex("02deadbeef01"), bytes(6))],
    "mac-group": lambda p: [{"dmac": m, "payload": GARBAGE} for m in (b"\xff" * 6, bytes.fromhex("01005e000001"))],
    "mac-other-rst": lambda p: [{"dmac": bytes.fromhex("02deadbeef01"), "flags": RST}],
    "options": options(*BAD_OPTIONS),
    "sack": options(*SACKS),
    "paws": lambda p: [{"options": p.timestamps(p.now() - n), "payload": GARBAGE} for n in (10000, 1 << 20, 1 << 30)],
    "tsecr": lambda p: [{"options": p.timestamps(ecr=v)} for v in (0, 1, 0xffffffff, 1 << 31)],
    "all-flags": lambda p: [{"flags": f, "seq": p.seq - 1} for f in range(256)],
    "icmp": icmp_all,
    "icmp-cut": lambda p: [("icmp", 3, 4, 68, p.ack, q) for q in range(29)],
}
# After these the connection is not used again: what was sent may lie in its queue, or have moved its clock.
LAST = {"ts-future": lambda p: [{"options": p.timestamps(p.now() + 1000000)}],
        "fin-gap": at_seq(FIN | ACK, 3000),
        "fin-data-gap": at_seq(FIN | ACK, 3000, payload=GARBAGE),
        "data-gap": at_seq(ACK, 3000, 5000, 9000, 20000, payload=GARBAGE),
        "data-over-edge": at_seq(ACK, "wnd-10", payload=GARBAGE)}


class Pair:
    """A FAST connection and one of Linux's own, at the same host, with peers of raw frames."""

    def __init__(self, lab):
        self.lab = lab
        lab.run_server([PYTHON, PEER, "echo", PORT], ready="ready")
        lab.run_server([PYTHON, PEER, "echo", PLAIN_PORT], ready="ready", accelerated=False)
        self.host = RawHost(lab)
        self.peers = {PORT: None, PLAIN_PORT: None}
        self.flow = None

    def peer(self, port):
        p = self.peers[port]
        if p is None or p.state != "alive":
            p = self.peers[port] = RawPeer(self.host, port)
            if port == PORT:
                self.flow = p.adopt()
            else:
                assert p.echo(b"x") == "alive"
        return p

    def inject(self, p, items):
        for i, item in enumerate(items):
            if isinstance(item, tuple):
                self.host.wire.send(p.icmp(*item[1:]))
            else:
                self.host.wire.send(p.frame(**item))
            if i % 32 == 31:
                time.sleep(0.003)  # the rings of a veth are short
        time.sleep(0.01)

    def outcome(self, port, make, data):
        p = self.peer(port)
        self.inject(p, make(p))
        try:
            return p.echo(data, seconds=1.2)
        except AssertionError as e:  # wrong bytes
            p.close()
            p.state = str(e)
            return p.state

    def compare(self, make, data):
        return {port: self.outcome(port, make, data) for port in (PORT, PLAIN_PORT)}

    def still_fast(self):
        """The FAST connection is where it was, and the bytes go that way."""
        p = self.peer(PORT)
        before = self.lab.counters()["rx_bytes"]
        assert p.echo(b"y" * 100) == "alive"
        assert self.flow["id"] in [f["id"] for f in self.lab.flows("FAST") if f["remote_port"] == p.port]
        assert self.lab.counters()["rx_bytes"] >= before + 100

    def drop(self):
        for port, p in self.peers.items():
            if p:
                p.close()
            self.peers[port] = None


@pytest.fixture
def pair(lab):
    p = Pair(lab)
    yield p
    p.host.close()
    log = lab.log()
    assert "ERROR: AddressSanitizer" not in log and "runtime error" not in log, log[-3000:]


def test_frames_as_linux_judges_them(pair):
    r = random.Random(1)
    wrong, seen = {}, set()
    for name, make in CASES.items():
        got = pair.compare(make, r.randbytes(60))
        seen.add(got[PORT])
        if got[PORT] != got[PLAIN_PORT]:
            wrong[name] = "FAST %s, Linux %s" % (got[PORT], got[PLAIN_PORT])
    pair.still_fast()
    assert not wrong
    assert {"alive", "reset", "closed"} <= seen
    for name, make in LAST.items():
        pair.drop()
        got = pair.compare(make, r.randbytes(60))
        assert got[PORT] == got[PLAIN_PORT], (name, got)
    c = pair.lab.counters()
    assert min(c[k] for k in ("drop_parse", "drop_checksum", "drop_window", "drop_paws", "drop_ack", "drop_mac")) > 0, c


def test_a_reset_for_somebody_else(pair):
    """A rule answers frames of anybody's with a reset. Their sender chooses its numbers, but who knows those of the
    connection? Frames with IP options go past the fast path, to Linux."""
    p = pair.peer(PORT)
    pair.lab.server.nft("table inet t { chain in { type filter hook input priority 0; tcp dport %d ct state invalid "
                        "counter reject with tcp reset; } }" % PORT)
    pair.inject(p, [{"ip_options": b"\1\1\1\1", "flags": f, "ack": a, "payload": GARBAGE}
                    for f in (0, PSH, ACK | SYN | FIN, ACK | PSH | FIN | RST) for a in (0, p.ack + 100000, p.ack - 1000)])
    text = pair.lab.server.run(["nft", "list", "ruleset"]).stdout
    assert "counter packets 0 " not in text, text
    assert pair.lab.counters()["drop_reset"] > 0
    pair.lab.server.nft("flush ruleset")
    pair.still_fast()


def test_stream_in_odd_pieces(pair):
    """The same bytes twice, overlapping, backwards, one at a time, and through a window that closes."""
    r = random.Random(2)
    n = 96
    orders = {
        "one by one": [(i, 1) for i in range(n)],
        "odd ones first": [(i, 1) for i in range(1, n, 2)] + [(i, 1) for i in range(0, n, 2)],
        "backwards": [(i, 1) for i in reversed(range(n))],
        "overlapping": [(i, min(20, n - i)) for i in range(0, n, 7)],
        "inside out": [(40, 10), (35, 20), (20, 50), (0, n)],
        "twice": [(0, n)] * 5,
        "holes": [(i, 5) for i in range(0, n - 5, 10)] + [(i, 5) for i in range(5, n - 5, 10)],
    }
    for name, pieces in orders.items():
        for port in (PORT, PLAIN_PORT):
            assert pair.peer(port).echo(r.randbytes(n), pieces) == "alive", (name, port)
    for port in (PORT, PLAIN_PORT):
        for quiet in (0.0, 0.3):
            assert pair.peer(port).echo(r.randbytes(n), quiet=quiet, rcv_window=0, seconds=4) == "alive", (quiet, port)
    pair.still_fast()


def test_urgent_that_says_nothing(pair):
    """A pointer to what was received already, and urgent segments that are not acceptable."""
    frames = [lambda p, n: {"urgent": n, "seq": p.seq - n - 1}, lambda p, n: {"urgent": 65535, "seq": p.seq - 1 - n},
              lambda p, n: {"urgent": 9, "seq": p.seq + p.window + n + 1}, lambda p, n: {"urgent": 9, "ack": p.ack + 1000000},
              lambda p, n: {"urgent": 9, "payload": GARBAGE, "tcp_sum": n}]
    for n in (0, 1, 50, 60000):
        for port in (PORT, PLAIN_PORT):
            p = pair.peer(port)
            pair.inject(p, [dict(make(p, n), flags=ACK | PSH | URG) for make in frames])
            assert p.echo(b"u" * 50) == "alive", (port, n)
    pair.still_fast()
    assert pair.lab.counters()["rx_urgent"] == 0


def echoed(p, seconds=0.4):
    """What comes back until nothing more does; acknowledged."""
    got, more = b"", p.receive(2)
    while more:
        for s in more:
            skip = (p.ack - s.seq) & 0xffffffff
            if s.payload and skip < len(s.payload):
                got += s.payload[skip:]
                p.ack = (p.ack + len(s.payload) - skip) & 0xffffffff
        p.send()
        more = p.receive(seconds)
    return got


@pytest.mark.parametrize("pointer,payload", [(0, b""), (1, b""), (65535, b""), (1, b"!"), (3, b"abU"), (2, b"abU")])
def test_urgent_data_are_linuxs(pair, pointer, payload):
    """One return, however many urgent segments come; then the connection says what Linux's own says."""
    data, got = payload + b"d" * 40, {}
    for port in (PORT, PLAIN_PORT):
        p = pair.peer(port)
        for _ in range(40):
            p.send(flags=ACK | PSH | URG, urgent=pointer, payload=payload)
        p.send(seq=p.seq + len(payload), flags=ACK | PSH, payload=data[len(payload):])
        p.seq += len(data)
        got[port] = echoed(p)
        assert p.echo(b"after") == "alive"
    assert got[PORT] == got[PLAIN_PORT] and len(got[PORT]) >= len(data) - 1
    p, c = pair.peers[PORT], pair.lab.counters()
    assert c["rx_urgent"] == c["returned"] == 1, c
    for _ in range(50):
        assert p.echo(b"and no adoption") == "alive"
    assert not [f for f in pair.lab.flows("FAST") if f["remote_port"] == p.port]
    rows = [f for f in pair.lab.flows() if f["remote_port"] == p.port]
    assert [f["reason"] for f in rows] == ["urgent"], rows


def test_errors_about_data_in_flight(pair):
    """ICMP of every kind that quotes what was really sent: segments may get smaller, nothing else happens."""
    r = random.Random(3)
    for port in (PORT, PLAIN_PORT):
        p = pair.peer(port)
        for kind, code in [(3, c) for c in range(16)] + [(11, 0), (12, 0), (4, 0)]:
            p.send(payload=b"z" * 30, flags=ACK | PSH)
            p.seq += 30
            time.sleep(0.004)
            pair.inject(p, [("icmp", kind, code, mtu) for mtu in (0, 68, 552, 65535)])
            got = b""
            while len(got) < 30:
                more = p.receive(2)
                assert more, (port, kind, code)
                assert not [s for s in more if s.flags & (RST | FIN)], (port, kind, code)
                for s in more:
                    skip = (p.ack - s.seq) & 0xffffffff
                    if s.payload and skip < len(s.payload):
                        got += s.payload[skip:]
                        p.ack += len(s.payload) - skip
            p.send()
            assert got == b"z" * 30
        assert p.echo(r.randbytes(1200), seconds=5) == "alive"
    pair.still_fast()


def fuzz(r, p):
    """A frame at random that Linux would not let end or bend a connection."""
    kind = r.randrange(12)
    if kind == 0:
        return ("icmp", r.choice((3, 4, 11, 12)), r.randrange(17), r.randrange(1 << 32), p.ack + r.randrange(-9, 9),
                r.randrange(48), r.random() < 0.2)
    kw = {"flags": r.randrange(256), "seq": p.seq - r.choice((1, 2, 100, r.randrange(1, 1 << 30))),
          "window": r.choice((512, 0, r.randrange(65536))), "ack": p.ack + r.choice((0, 0, -1, r.randrange(-1 << 31, 1 << 31))),
          "payload": r.choice((b"", GARBAGE[:r.randrange(41)]))}
    if len(kw["payload"]) >= (p.seq - kw["seq"]) & 0xffffffff:
        kw["payload"] = b""
    if kind == 1:
        kw["options"] = r.randbytes(4 * r.randrange(1, 11))
    elif kind == 2:
        kw.update(tcp_sum=r.randrange(65536), seq=p.seq, payload=GARBAGE)
    elif kind == 3:
        kw.update(doff=r.choice((0, 1, 2, 3, 4, 9, 12, 15)), payload=b"")  # else options become new data
    elif kind == 4:
        kw["cut"] = r.randrange(14, 80)
    elif kind == 5:
        kw["total"] = r.randrange(65536)
    elif kind == 6:
        kw["ip_options"] = r.randbytes(4 * r.randrange(1, 11))
    elif kind == 7:
        kw["frag"] = r.randrange(1, 65536)
    elif kind == 8:
        kw.update(ihl=r.randrange(5), version=r.randrange(16))
    elif kind == 9:
        kw.update(dmac=b"\x02" + r.randbytes(5), seq=p.seq, payload=GARBAGE)
    elif kind == 10:
        kw.update(options=p.timestamps(p.now() - r.randrange(20000, 1 << 30)), seq=p.seq, payload=GARBAGE)
        kw["flags"] &= ~RST
    elif kind == 11:
        kw.update(seq=p.seq + p.window + r.randrange(1000, 1 << 30), payload=GARBAGE)
    return kw


def test_random_frames(pair):
    seed = int(os.environ.get("TAPAS_SEED", "0")) or random.randrange(1, 1 << 32)
    print("seed", seed)
    for port in (PORT, PLAIN_PORT):
        r = random.Random(seed)
        p = pair.peer(port)
        for i in range(scale(60, 12)):
            pair.inject(p, [fuzz(r, p) for _ in range(100)])
            assert p.echo(r.randbytes(80)) == "alive", "seed %d, port %d, round %d: %s" % (seed, port, i, p.state)
    pair.still_fast()
