# SPDX-License-Identifier: GPL-2.0-or-later
"""What reaches the kernel socket in the moment of its adoption, and after it, as a processor stood still with a frame in
its hands; and an acknowledgement that is no answer. The frame is sent through another interface of the server host, past
the fast path, and the socket's filter, which it had passed already, is taken off."""
import ctypes
import os
import random
import signal
import socket
import time

import pytest

from frames import ACK, PSH, Wire, tcp_frame
from lab import wait_for
from test_adopt import PEER, PYTHON
from test_firewall import PORT, fast_conversation

PIDFD_GETFD = 438
SO_DETACH_FILTER = 27


def socket_of(pid, fd):
    """A duplicate of another process's socket."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    got = libc.syscall(PIDFD_GETFD, pidfd, fd, 0)
    err = ctypes.get_errno()
    os.close(pidfd)
    assert got >= 0, os.strerror(err)
    return socket.socket(fileno=got)


class Slip:
    """Frames of a FAST connection that come past the fast path."""

    def __init__(self, lab, port):
        self.lab, self.port = lab, port
        lab.server.run(["ip", "link", "add", "vt0", "type", "veth", "peer", "name", "vt1"])
        for name in ("vt0", "vt1"):
            lab.server.run(["ip", "link", "set", name, "up"])
        for name in ("all", "vt0"):
            lab.server.sysctl("net.ipv4.conf.%s.rp_filter" % name, 0)
        self.tap, self.to = Wire(lab.server, "tapas0"), Wire(lab.server, "vt1")
        end = Wire(lab.server, "vt0")
        self.mac = end.mac
        end.close()

    def numbers(self):
        """What the kernel socket expects next, and what it has sent: as the service's heartbeats say."""
        def beat():
            got = [s for s in self.tap.segments(0.1, self.port) if s.dport == self.port and len(s.payload) == 1]
            return got[-1] if got else None
        s = wait_for(beat, 5, "a heartbeat")
        return s.src, s.dst, s.sport, (s.seq + 1) & 0xffffffff, s.ack

    def send(self, flow, payload):
        src, dst, sport, seq, ack = self.numbers()
        with socket_of(flow["pid"], flow["fd"]) as s:
            s.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        self.to.send(tcp_frame(self.mac, self.to.mac, src, dst, sport, self.port, seq, ack, ACK | PSH, payload))

    def close(self):
        self.tap.close()
        self.to.close()


@pytest.fixture
def slip(lab):
    if lab.plain:
        pytest.skip("needs the service")
    s = Slip(lab, PORT)
    yield s
    s.close()


def test_a_segment_slips_in(lab, slip):
    """The connection goes on, Linux's rules with it, and it ends as it should."""
    c = fast_conversation(lab)
    flow = lab.flows("FAST", PORT)[0]
    for n in (1, 700):
        before = lab.counters()["shadow_slipped"]
        slip.send(flow, random.randbytes(n))
        wait_for(lambda: lab.counters()["shadow_slipped"] > before, 5, "it is noticed")
    answers = lab.counters()["heartbeat_ack"]
    wait_for(lambda: lab.counters()["heartbeat_ack"] > answers + 2, 5, "Linux answers as before")
    c.speaking(time.monotonic())
    c.in_order()
    lab.server.nft("table inet stop { chain in { type filter hook input priority 0; tcp dport %d drop; } }" % PORT)
    t = time.monotonic()
    time.sleep(0.5)
    c.silent_since(t + 0.1)
    lab.server.run(["nft", "delete", "table", "inet", "stop"])
    c.speaking(time.monotonic())
    c.in_order()
    counters = lab.counters()
    assert counters["heartbeat_rst"] == 0 and counters["adopted"] == 1, counters
    c.close()
    wait_for(lambda: not lab.flows("FAST", PORT), 5, "the end")
    assert "flags 0x14" not in lab.log()  # a reset of the kernel's own accord


def test_it_slips_in_and_the_program_dies(lab, slip):
    """Linux resets a connection that is closed with data unread; but nobody sent these to it."""
    lab.run_server([PYTHON, PEER, "echo", PORT], ready="ready")
    s = lab.connect(PORT)
    lab.adopt(s)
    flow = lab.flows("FAST", PORT)[0]
    numbers = slip.numbers()
    slip.numbers = lambda: numbers
    lab.service.send_signal(signal.SIGSTOP)
    slip.send(flow, b"unread")
    time.sleep(0.05)
    os.kill(flow["pid"], signal.SIGKILL)
    time.sleep(0.2)
    lab.service.send_signal(signal.SIGCONT)
    s.settimeout(5)
    assert s.recv(100) == b""
    s.close()
    assert lab.counters()["shadow_slipped"] > 0


def test_an_acknowledgement_is_no_answer(make_lab):
    """Linux acknowledges of its own accord, while a rule swallows the questions: that is no permission."""
    lab = make_lab("shared", config={"adopt": {"timeout_ms": 300}})
    if lab.plain:
        pytest.skip("needs the service")
    lab.server.nft("table inet t { chain in { type filter hook input priority 0; iifname \"%s\" tcp dport %d ip length 41 "
                   "drop; } }" % (lab.interface, PORT))
    lab.run_server([PYTHON, PEER, "sink", PORT], ready="ready")
    s = lab.connect(PORT)

    def tried():
        time.sleep(0.06)
        s.send(b"x")
        return lab.counters()["adopt_rolled_back"] > 0

    wait_for(tried, 10, "adoptions that are taken back: %s" % lab.flows())
    assert lab.counters()["adopted"] == 0
    s.close()
