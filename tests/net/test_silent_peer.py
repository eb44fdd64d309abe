# SPDX-License-Identifier: GPL-2.0-or-later
"""A peer that is silent: SO_KEEPALIVE and TCP_USER_TIMEOUT end a FAST connection when they would end Linux's own."""
import select
import socket
import time

import pytest

from lab import Lab, wait_for

PORT = 7

SERVER = """
import socket, sys, time
TCP = socket.IPPROTO_TCP
s = socket.create_server(("", 7))
LISTENER
print("ready", flush=True)
c, _ = s.accept()
while (d := c.recv(1000)) != b"go":
    c.sendall(d)
CONNECTION
print("set", flush=True)
try:
    while d := c.recv(1000):
        c.sendall(d)
    print("ended", flush=True)
except OSError as e:
    print(e.errno, c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), time.monotonic(), flush=True)
time.sleep(60)
"""
KEEPALIVE = """
c.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
for name, v in (socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2): c.setsockopt(TCP, name, v)
"""
DROP = "table inet t { chain i { type filter hook input priority 0; iifname \"peer0\" tcp sport 7 drop; } }"
ETIMEDOUT = ["110", "0"]  # SO_ERROR has been told


def server(listener, connection):
    return SERVER.replace("LISTENER", listener).replace("CONNECTION", connection)


def line(program):
    return Lab._await_text(program, "\n", 20).strip()


def fill(sock):
    """Send what there is room for; true once there has been none for a while."""
    try:
        sock.send(b"x" * 65536)
    except BlockingIOError:
        return not select.select([], [sock], [], 0.7)[1]
    return False


class Silent:
    """The server with @options set on its accelerated connection."""

    def __init__(self, lab, options, listener=""):
        self.lab = lab
        self.server = lab.run_server(["python3", "-c", server(listener, options)], PORT, ready="ready")
        self.sock = lab.connect(PORT)
        lab.adopt(self.sock)
        self.sock.sendall(b"go")
        assert self.line() == "set"
        self.start = time.monotonic()

    def line(self):
        return line(self.server)

    def fast(self):
        return self.lab.plain or len(self.lab.flows("FAST")) == 1

    def ended(self):
        """What the server's recv() said, and after how many seconds."""
        what = self.line().split()
        return what[:2], float(what[2]) - self.start

    def segments(self):
        info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        return int.from_bytes(info[140:144], "little")  # tcpi_segs_in


def test_keepalive_asks_and_is_answered(lab):
    c = Silent(lab, KEEPALIVE)
    before = c.segments()
    time.sleep(5.5)
    assert 2 <= c.segments() - before <= 8
    assert c.fast()
    c.sock.sendall(b"still here")
    assert c.sock.recv(100) == b"still here"
    assert c.fast()


def test_keepalive_ends_what_is_dead(lab):
    c = Silent(lab, KEEPALIVE)
    assert c.fast()
    lab.client.nft(DROP)
    what, seconds = c.ended()
    assert what == ETIMEDOUT and 2 <= seconds < 10
    wait_for(lambda: lab.plain or not lab.flows("FAST"), 5, "flow gone")


def test_keepalive_from_the_listener(lab):
    """Set before there was a connection, as most servers do."""
    c = Silent(lab, "", KEEPALIVE.replace("c.", "s."))
    assert c.fast()
    lab.client.nft(DROP)
    what, seconds = c.ended()
    assert what == ETIMEDOUT and 2 <= seconds < 10


def test_user_timeout_of_data(lab):
    c = Silent(lab, "c.setsockopt(TCP, 18, 1500)")
    c.sock.sendall(b"a")
    assert c.sock.recv(1) == b"a" and c.fast()
    lab.client.nft(DROP)
    c.sock.sendall(b"echo into the dark")
    what, seconds = c.ended()
    assert what == ETIMEDOUT and 1 <= seconds < 8


def test_user_timeout_of_a_closed_window(lab):
    """The peer answers every probe, but never opens its window."""
    c = Silent(lab, "c.setsockopt(TCP, 18, 2000)")
    c.sock.setblocking(False)
    wait_for(lambda: fill(c.sock), 10, "the peer's buffers are full")
    assert c.fast()
    what, seconds = c.ended()
    assert what == ETIMEDOUT and 2 <= seconds < 15


@pytest.mark.parametrize("timeout", [0, 60000])
def test_patience(lab, timeout):
    """Neither is so short: the connection outlives a silence of seconds."""
    c = Silent(lab, "c.setsockopt(TCP, 18, %d)" % timeout)
    lab.client.nft(DROP)
    c.sock.sendall(b"later")
    time.sleep(3)
    lab.client.nft("flush ruleset")
    c.sock.settimeout(20)
    assert c.sock.recv(100) == b"later"
    assert c.fast()
