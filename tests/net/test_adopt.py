# SPDX-License-Identifier: GPL-2.0-or-later
"""Adoption at any moment of a conversation, with data in flight both ways, on good wires and bad ones, and when it
fails half way; and what Linux sees of the bytes while the service is stopped or gone: nothing."""
import json
import os
import signal
import socket
import sys
import time

import pytest

from lab import echo_once, scale, tool, wait_for
from peer import pattern
from test_firewall import Conversation, fast_conversation

PORT = 9000
PEER = os.path.join(os.path.dirname(__file__), "peer.py")
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
SHADOW_PORT = 7


def finish(p):
    p.send_signal(signal.SIGTERM)
    out, _ = p.communicate(timeout=90)
    line = [x for x in out.decode().splitlines() if x.startswith("{")][-1]
    return json.loads(line)


def talk(lab, total, at_once, mean, seed, seconds=60, reverse=False):
    """Conversations between the hosts, the service's side accelerated; every byte compared at both ends."""
    if reverse:
        server = lab.spawn(lab.client, [tool("talk"), "server", PORT], ready="ready")
        argv = [tool("talk"), "client", lab.sources[0], PORT, total, at_once, mean, seed, seconds]
        r = lab.run_accelerated(argv, check=False, timeout=seconds + 30)
    else:
        server = lab.run_server([tool("talk"), "server", PORT], ready="ready")
        argv = [tool("talk"), "client", lab.addr, PORT, total, at_once, mean, seed, seconds]
        r = lab.run_client(argv, check=False, timeout=seconds + 30)
    line = [x for x in r.stdout.splitlines() if x.startswith("{")]
    assert line, (r.returncode, r.stdout, r.stderr)
    client = json.loads(line[-1])
    at_server = finish(server)
    assert client["ok"] == total and client["bad"] == 0, (client, at_server)
    assert at_server["ok"] == total and at_server["bad"] == 0, (client, at_server)
    # such an event is another connection's, that has been closed, or one of a socket that was being rebuilt
    assert not [x for x in (client, at_server) if x["first_odd"].startswith("EPOLL")], (client, at_server)
    return client, at_server


def adopted(lab, least):
    if lab.plain:
        return
    c = lab.counters()
    assert c["adopted"] >= least, {k: v for k, v in c.items() if v}
    wait_for(lambda: lab.status()["fast"] == 0, 5, "all flows closed: %s" % lab.flows()[:3])


@pytest.mark.parametrize("reverse", [False, True], ids=["server", "client"])
def test_conversations(lab, reverse):
    """Thousands of connections, adopted in mid-stream."""
    total = scale(4000, 600)
    talk(lab, total, 40, 60000, 11, reverse=reverse)
    adopted(lab, total // 2)


@pytest.mark.parametrize("after", [3000, 40000, 120000])
def test_adopted_after_bytes(make_lab, after):
    """Adoption at other moments: after so many bytes."""
    lab = make_lab("shared", config={"adopt": {"exchanges": 1000000, "bytes": after}})
    total = scale(2000, 200)
    talk(lab, total, 30, 120000, after)
    adopted(lab, total // 4)


def test_large_streams(lab):
    talk(lab, scale(40, 12), 6, scale(8 << 20, 2 << 20), 5)
    adopted(lab, 10)


def test_room_to_send(lab):
    """A connection that asked for nothing takes what Linux, tuned by use, would: some programs do not wait for room when
    they close. What was taken arrives, also after the close."""
    lab.run_server([PYTHON, PEER, "fill", PORT], ready="ready")
    s = lab.client.socket()
    s.settimeout(5)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    s.connect((lab.addr, PORT))
    lab.adopt(s)
    s.sendall(b"fill")
    time.sleep(1.0)
    got = b""
    while data := s.recv(65536):
        got += data
    assert got == pattern(0, len(got))
    assert lab.plain or len(got) >= 256 << 10, len(got)


@pytest.mark.parametrize("step", range(0, 7))
def test_adoption_fails(make_lab, step):
    """Every second adoption fails at this step (0: at each in turn) and must leave Linux as it was."""
    lab = make_lab("shared", config={"test": {"fail_adopt_every": 2, "fail_adopt_step": step}})
    total = scale(1000, 160)
    talk(lab, total, 20, 60000, 17 + step)
    if not lab.plain:
        c = lab.counters()
        assert c["adopted"] > 0, c
        if step == 0:
            assert c["adopt_rolled_back"] + c["adopt_refused"] > 0, c


def test_adoption_always_fails(make_lab):
    lab = make_lab("shared", config={"test": {"fail_adopt_every": 1, "fail_adopt_step": 0}})
    talk(lab, scale(1000, 160), 20, 60000, 29)


def kept_promises(lab):
    """Whatever the service's side acknowledged selectively it had: the peer was not told something else later."""
    said = [line.split() for line in lab.client.run(["nstat", "-asz"]).stdout.splitlines()]
    sack = {line[0]: int(line[1]) for line in said if "SACK" in line[0].upper()}
    assert sum(sack.values()) > 0 and sack["TcpExtTCPSACKReneging"] == 0, sack


BAD_WIRES = {
    "loss": ["drop=1", "seed=1"],
    "heavy loss": ["drop=5", "seed=2"],
    "duplicates and reordering": ["dup=3", "reorder=5", "seed=3"],
    "all": ["drop=1", "dup=1", "reorder=2", "corrupt=0.5", "seed=4"],
    "far away": ["delay=5000", "drop=0.5", "seed=5"],
}


@pytest.mark.parametrize("wire", list(BAD_WIRES))
def test_bad_wire(make_lab, wire):
    lab = make_lab("shared", middlebox=BAD_WIRES[wire])
    total = scale(600, 100)
    talk(lab, total, 30, 50000, 3, seconds=90)
    kept_promises(lab)
    if not lab.plain:  # at heavy loss many have a gap whenever they are looked at
        assert lab.counters()["adopted"] > total // (10 if wire == "heavy loss" else 4)


def test_bad_wire_exclusive(make_lab):
    lab = make_lab("exclusive", middlebox=BAD_WIRES["all"])
    total = scale(600, 100)
    talk(lab, total, 30, 50000, 4, seconds=90)
    kept_promises(lab)
    if not lab.plain:
        assert lab.counters()["adopted"] > total // 4


def test_bad_wire_accelerated_client(make_lab):
    lab = make_lab("shared", middlebox=BAD_WIRES["all"])
    talk(lab, scale(600, 100), 30, 50000, 6, seconds=90, reverse=True)


def shadow_bytes(lab):
    return [r.get("bytes_received", 0) for r in lab.shadows(SHADOW_PORT)]


def test_service_stopped_for_a_while(lab):
    """SIGSTOP while frames arrive: not a byte enters a kernel socket, and afterwards all goes on in order."""
    if lab.plain:
        pytest.skip("needs the service")
    c = fast_conversation(lab)
    mark = shadow_bytes(lab)
    for _ in range(3):
        lab.service.send_signal(signal.SIGSTOP)
        for _ in range(5):
            time.sleep(0.1)
            assert shadow_bytes(lab) == mark
        lab.service.send_signal(signal.SIGCONT)
        c.speaking(time.monotonic())
    assert shadow_bytes(lab) == mark
    c.in_order()
    c.close()


def test_service_killed(lab):
    """SIGKILL while frames arrive: not a byte enters a kernel socket afterwards either, and what the application
    was given is a prefix of what was sent."""
    if lab.plain:
        pytest.skip("needs the service")
    c = fast_conversation(lab)
    mark = shadow_bytes(lab)
    lab.stop_service(signal.SIGKILL)
    for _ in range(15):
        time.sleep(0.1)
        assert shadow_bytes(lab) in (mark, []), "wire bytes entered the shadow"
    c.in_order()
    c.close()


def test_new_connections_after_the_service_died(make_lab):
    """The accelerated program serves on, by Linux, and by the next service too."""
    lab = make_lab("shared")
    if lab.plain:
        pytest.skip("needs the service")
    lab.run_server([PYTHON, PEER, "echo", SHADOW_PORT], ready="ready")
    s = lab.connect(SHADOW_PORT)
    lab.adopt(s)
    lab.stop_service(signal.SIGKILL)
    t = lab.connect(SHADOW_PORT)
    for _ in range(20):
        echo_once(t)
    lab.start_service()
    u = lab.connect(SHADOW_PORT)
    for _ in range(20):
        echo_once(t)
        echo_once(u)
    for x in (s, t, u):
        x.close()


def test_conversation_without_service():
    """The yardstick itself, on plain Linux."""
    from lab import Lab
    with Lab("plain", middlebox=BAD_WIRES["all"]) as lab:
        talk(lab, 60, 20, 30000, 9)
    with Lab("plain") as lab:
        c = Conversation(lab)
        time.sleep(0.3)
        c.speaking(time.monotonic())
        c.in_order()
        c.close()
