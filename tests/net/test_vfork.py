# SPDX-License-Identifier: GPL-2.0-or-later
"""Children that work in their parent's memory close descriptors; the parent's connections do not notice."""
import socket

from lab import FastShare, echo_once, tool, wait_for

PORT = 7


def test_connections_of_linux_survive_children(make_lab):
    lab = make_lab("shared", config={"adopt": {"exchanges": 6, "bytes": "1G"}})
    lab.run_server([tool("vforks"), PORT], PORT)
    socks = [lab.connect(PORT) for _ in range(8)]
    for _ in range(3):  # with Linux so far, while children close them
        for s in socks:
            echo_once(s)
    if lab.plain:
        return
    assert not lab.counters()["adopted"]
    one = lab.connect(PORT)  # the first child of a raw clone() has cost these their acceleration, but nothing else
    one.sendall(b"x" * 64)
    assert one.recv(64, socket.MSG_WAITALL) == b"x" * 64


def test_adopted_connections_survive_children(make_lab):
    """Adopted at once: children of both kinds then close them in vain, and every later byte is by the fast path."""
    lab = make_lab("shared", config={"adopt": {"exchanges": 0, "bytes": 0}})
    lab.run_server([tool("vforks"), PORT], PORT)
    socks = [lab.connect(PORT) for _ in range(4)]
    for s in socks:
        lab.adopt(s)
    if lab.plain:
        return
    share = FastShare(lab)
    for _ in range(10):
        for s in socks:
            echo_once(s)
    share.assert_fast(connections=0)
    for s in socks:
        s.close()
    wait_for(lambda: not lab.flows("FAST"), 5, "all closed")
    assert not lab.counters()["flow_reset"]
