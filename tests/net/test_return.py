# SPDX-License-Identifier: GPL-2.0-or-later
"""Return: live connections go back to Linux on their own descriptors and are adopted again, at any moment of a
conversation, with bytes in flight both ways; and all of them when the service stops."""
import signal
import threading
import time

import pytest

from lab import scale, stop_process, tool, wait_for
from test_adopt import BAD_WIRES, finish, talk
from test_firewall import fast_conversation

PORT = 9000


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


@pytest.mark.parametrize("wire", list(BAD_WIRES))
def test_bad_wire(make_lab, wire):
    lab = make_lab("shared", middlebox=BAD_WIRES[wire])
    with Releasing(lab):
        talk(lab, scale(600, 80), 30, 100000, 3, seconds=90)
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
