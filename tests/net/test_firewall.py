# SPDX-License-Identifier: GPL-2.0-or-later
"""The administrator's rules on an accelerated host: what they say of handshakes, and of connections that live."""
import errno
import os
import re
import select
import socket
import struct
import sys
import threading
import time

import pytest

from frames import RST, SYN, Wire
from lab import Lab, echo_once, wait_for

PORT = 7
PEER = os.path.join(os.path.dirname(__file__), "peer.py")
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
BASE = "table inet t { chain in { type filter hook input priority 0; policy drop; iif lo accept; %s; } }\n"


def echo_server(lab, port=PORT):
    return lab.run_server([PYTHON, PEER, "echo", port], ready="ready")


def refused_with(lab, error, source=None, timeout=0.6):
    with pytest.raises(error):
        lab.connect(PORT, source, timeout).close()


def test_drop_all_but_one_source(lab):
    """The admitted client is served and accelerated; the other hears nothing at all."""
    good, bad = lab.sources
    lab.server.nft(BASE % "ip saddr %s tcp dport %d accept" % (good, PORT))
    echo_server(lab)
    wire = Wire(lab.client)
    refused_with(lab, (socket.timeout, TimeoutError), bad)
    seen = wire.segments(0.1, PORT)
    assert any(s.outgoing and s.src == bad and s.flags & SYN for s in seen)
    assert not [s for s in seen if s.dst == bad], "the denied client got an answer"
    s = lab.connect(PORT, good)
    lab.adopt(s)
    echo_once(s)
    refused_with(lab, (socket.timeout, TimeoutError), bad, 0.3)
    echo_once(s)
    s.close()
    wire.close()


def test_reject_with_reset(lab):
    good, bad = lab.sources
    lab.server.nft(BASE % "ip saddr %s tcp dport %d reject with tcp reset; accept" % (bad, PORT))
    echo_server(lab)
    refused_with(lab, ConnectionRefusedError, bad, 2)
    s = lab.connect(PORT, good)
    lab.adopt(s)
    s.close()


@pytest.mark.parametrize("mode", ["plain", "shared", "exclusive"])
def test_limit_on_new_connections(make_lab, mode):
    """A rate limit counts handshakes exactly as on plain Linux: seven of twenty."""
    lab = make_lab(mode)
    lab.server.nft(BASE % "ct state established accept; tcp dport %d ct state new limit rate 1/hour burst 7 packets "
                   "accept" % PORT)
    echo_server(lab)
    done = []
    for _ in range(20):
        try:
            done.append(lab.connect(PORT, timeout=0.15))
        except (socket.timeout, TimeoutError):
            pass
    assert len(done) == 7
    for s in done:
        lab.adopt(s)
        echo_once(s)
        s.close()


@pytest.mark.parametrize("how", ["iif", "iifname"])
def test_interface_rules(lab, how):
    """Rules name the interface that the administrator knows (exclusive mode: the TAP)."""
    echo_server(lab)
    lab.server.nft(BASE % '%s "%s" tcp dport %d accept' % (how, lab.interface, PORT))
    s = lab.connect(PORT)
    lab.adopt(s)
    s.close()
    lab.server.nft("flush ruleset\n" + BASE % '%s != "%s" accept' % (how, lab.interface))
    refused_with(lab, (socket.timeout, TimeoutError))


def test_counters_of_handshakes(lab):
    """Each handshake passes the rules once."""
    lab.server.nft("table inet t { counter syns { } counter synacks { }\n"
                   "chain in { type filter hook input priority 0; tcp dport %d tcp flags & (syn|ack) == syn counter name syns; }\n"
                   "chain out { type filter hook output priority 0; tcp sport %d tcp flags & (syn|ack) == (syn|ack) counter name "
                   "synacks; } }" % (PORT, PORT))
    echo_server(lab)
    for _ in range(13):
        s = lab.connect(PORT)
        lab.adopt(s)
        s.close()
    text = lab.server.run(["nft", "list", "counters"]).stdout
    assert re.findall(r"packets (\d+)", text) == ["13", "13"], text


class Conversation:
    """Both sides speak every 5 ms by themselves, and note when they heard what."""

    def __init__(self, lab, port=PORT):
        self.server = lab.run_server([PYTHON, PEER, "ticker", port, "5"], ready="ready")
        self.sock = lab.connect(port)
        self.at_client, self.at_server = [], []  # (time, bytes)
        self.error = {}
        self.stop = False
        self.sent = 0
        self.threads = [threading.Thread(target=f, daemon=True) for f in (self._client, self._server)]
        for t in self.threads:
            t.start()

    def _client(self):
        s, out, due = self.sock, b"", time.monotonic()
        s.setblocking(False)
        while not self.stop:
            try:
                if select.select([s], [], [], max(0, due - time.monotonic()))[0]:
                    data = s.recv(65536)
                    if not data:
                        self.error["client"] = 0
                        return
                    self.at_client.append((time.monotonic(), data))
                if time.monotonic() >= due:
                    due = max(due + 0.005, time.monotonic())
                    out += struct.pack("!Q", self.sent)
                    self.sent += 1
                    out = out[s.send(out):]
            except BlockingIOError:
                pass
            except OSError as e:
                self.error["client"] = e.errno
                return

    def _server(self):
        for line in self.server.stdout:
            f = line.decode().split()
            if len(f) < 3:
                continue
            if f[0] == "R" and f[2] != "eof":
                self.at_server.append((float(f[1]), bytes.fromhex(f[2])))
            elif f[0] == "E":
                self.error["server"] = int(f[2])
                return
            elif f[0] == "R":
                self.error["server"] = 0
                return

    def last(self):
        return max(t for t, _ in self.at_client), max(t for t, _ in self.at_server)

    def silent_since(self, t, sides=("client", "server")):
        """Neither side, or not this one, heard anything after t."""
        heard = {"client": self.at_client, "server": self.at_server}
        late = [(side, x - t, len(d)) for side in sides for x, d in list(heard[side]) if x > t]
        assert not late, "heard after the rule: %s" % late[:5]

    def speaking(self, since, timeout=10.0):
        wait_for(lambda: min(self.last()) > since and not self.error, timeout, "both sides hear again; %s" % self.error)

    def in_order(self):
        """Every counter once and in order, at both ends."""
        for got in (self.at_client, self.at_server):
            data = b"".join(d for _, d in list(got))
            numbers = struct.unpack("!%dQ" % (len(data) // 8), data[:len(data) // 8 * 8])
            assert numbers == tuple(range(len(numbers)))
            assert numbers

    def close(self):
        self.stop = True
        self.threads[0].join(2)
        self.sock.close()


def fast_conversation(lab):
    c = Conversation(lab)
    port = c.sock.getsockname()[1]
    if not lab.plain:
        wait_for(lambda: [f for f in lab.flows("FAST") if f["remote_port"] == port], 3, "adoption; %s" % lab.flows())
    time.sleep(0.1)
    c.speaking(time.monotonic())
    return c


RULES = {
    "input": "chain in { type filter hook input priority 0; tcp dport %d counter drop; }",
    "output": "chain out { type filter hook output priority 0; tcp sport %d counter drop; }",
    "input by source": "chain in { type filter hook input priority 0; ip saddr 10.77.0.0/16 tcp dport %d drop; }",
}


@pytest.mark.parametrize("rule", list(RULES))
def test_drop_rule_on_live_connection(lab, rule):
    """A new rule stops both directions of a FAST connection within 100 ms; its removal lets the same one go on."""
    c = fast_conversation(lab)
    mark = lab.shadows(PORT)[0].get("bytes_received", 0)
    lab.server.nft("table inet stop { %s }" % (RULES[rule] % PORT))
    t = time.monotonic()
    time.sleep(1.0)
    c.silent_since(t + 0.1)
    assert not c.error
    if not lab.plain:
        assert [f["state"] for f in lab.flows(port=PORT) if f["state"] != "LINUX"] == ["MUTED"]
    lab.server.run(["nft", "delete", "table", "inet", "stop"])
    c.speaking(time.monotonic())
    time.sleep(0.5)
    c.in_order()
    if not lab.plain:
        assert lab.flows("FAST", PORT)
        assert lab.shadows(PORT)[0].get("bytes_received", 0) == mark
    c.close()


def test_one_of_many_is_stopped(lab):
    """A rule about one client leaves the others alone."""
    echo_server(lab)
    a, b = (lab.connect(PORT, s) for s in lab.sources)
    lab.adopt(a)
    lab.adopt(b)
    lab.server.nft("table inet stop { chain in { type filter hook input priority 0; ip saddr %s drop; } }" % lab.sources[1])
    time.sleep(0.1)
    b.sendall(b"never")
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        echo_once(a)
    assert not select.select([b], [], [], 0)[0]
    lab.server.run(["nft", "flush", "ruleset"])
    b.settimeout(5)
    assert b.recv(5, socket.MSG_WAITALL) == b"never"
    echo_once(b)
    for s in (a, b):
        s.close()


def test_reject_rule_on_live_connection(lab):
    """`reject with tcp reset` ends the connection, as for Linux's own."""
    c = fast_conversation(lab)
    lab.server.nft("table inet stop { chain in { type filter hook input priority 0; tcp dport %d reject with tcp reset; } }"
                   % PORT)
    wait_for(lambda: "client" in c.error, 3, "the client learns of the reset")
    assert c.error["client"] == errno.ECONNRESET
    c.close()


def test_kill_by_ss(lab):
    """`ss -K` resets the connection at both ends."""
    c = fast_conversation(lab)
    lab.server.run(["ss", "-K", "sport", "=", ":%d" % PORT])
    wait_for(lambda: len(c.error) == 2, 3, "both ends learn of it; %s" % c.error)
    assert c.error["client"] == errno.ECONNRESET
    assert c.error["server"] in (errno.ECONNABORTED, errno.ECONNRESET, errno.EPIPE)
    if not lab.plain:
        wait_for(lambda: lab.status()["fast"] == 0, 3, "no flow left: %s" % lab.flows())
    c.close()


@pytest.mark.parametrize("how", [["-F"], ["-D", "-p", "tcp", "--dport", str(PORT)]])
def test_conntrack_flush(lab, how):
    """An emptied conntrack table does not end a connection that the rules would admit again."""
    lab.server.nft(BASE % "ct state established,related accept; tcp dport %d accept" % PORT)
    c = fast_conversation(lab)
    lab.server.run(["conntrack", *how], check=False)
    t = time.monotonic()
    c.speaking(t + 0.5)
    time.sleep(1.5)
    c.speaking(time.monotonic())
    c.in_order()
    if not lab.plain:
        assert lab.flows("FAST", PORT)
    rows = lab.server.run(["conntrack", "-L", "-p", "tcp"]).stdout
    assert "dport=%d" % PORT in rows, "Linux tracks it again"
    c.close()


def test_established_only(lab):
    """`ct state established accept` alone keeps live connections and admits no new one; conntrack agrees with the close."""
    echo_server(lab)
    lab.server.nft(BASE % "ct state established accept; ct state new tcp dport %d accept" % PORT)
    s = lab.connect(PORT)
    lab.adopt(s)
    lab.server.nft("flush ruleset\n" + BASE % "ct state established accept")
    for _ in range(20):
        echo_once(s)
        time.sleep(0.01)
    refused_with(lab, (socket.timeout, TimeoutError))
    s.close()
    wait_for(lambda: "ESTABLISHED" not in lab.server.run(["conntrack", "-L", "-p", "tcp"]).stdout, 3,
             "conntrack saw the close")


def test_plain_connections_unaffected_by_mute():
    """The rule that silences FAST flows is Linux's own for the rest: same sentence, same effect without the service."""
    with Lab("plain") as lab:
        c = Conversation(lab)
        time.sleep(0.2)
        lab.server.nft("table inet stop { %s }" % (RULES["input"] % PORT))
        t = time.monotonic()
        time.sleep(0.5)
        late = [x for x, _ in c.at_server if x > t + 0.1]
        assert not late and not c.error
        lab.server.run(["nft", "delete", "table", "inet", "stop"])
        c.speaking(time.monotonic())
        c.in_order()
        c.close()


def test_silent_port_sends_no_reset(lab):
    """A stray segment to a dropped port draws nothing, to an open one Linux's reset: the service answers neither."""
    from frames import ACK, tcp_frame
    lab.ping()
    wire = Wire(lab.client)
    mac = bytes.fromhex(lab.client.run(["ip", "neigh", "show", lab.addr]).stdout.split("lladdr ")[1][:17].replace(":", ""))
    frame = tcp_frame(mac, wire.mac, lab.sources[0], lab.addr, 40001, PORT, 1000, 2000, ACK)
    wire.frames()
    wire.send(frame)
    assert any(s.flags & RST and not s.outgoing for s in wire.segments(0.3, PORT))
    lab.server.nft(BASE % "icmp type echo-request accept")
    wire.send(frame)
    assert not [s for s in wire.segments(0.3, PORT) if not s.outgoing]
    wire.close()
