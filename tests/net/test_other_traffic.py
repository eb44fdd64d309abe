# SPDX-License-Identifier: GPL-2.0-or-later
"""What is not ours stays Linux's, and what a stranger sends changes nothing."""
import os
import socket
import sys
import threading

from frames import ACK, FIN, PSH, RST, SYN, Wire, tcp_frame
from lab import echo_once, scale, tool

PORT = 7
PEER = os.path.join(os.path.dirname(__file__), "peer.py")
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
FAR = 1 << 30


def echo_server(lab, port=PORT, **kw):
    return lab.run_server([PYTHON, PEER, "echo", port], ready="ready", **kw)


def fast_echo(lab, port=PORT):
    echo_server(lab, port)
    s = lab.connect(port)
    lab.adopt(s)
    return s


def test_ping_and_fragments(lab):
    """ICMP, whole and in fragments, passes beside FAST traffic."""
    s = fast_echo(lab)
    for i in range(20):
        lab.ping(size=56)
        lab.ping(size=4000)
        lab.ping(lab.sources[1], size=20000)
        echo_once(s)
    s.close()


def test_udp(lab):
    server = lab.server.socket(kind=socket.SOCK_DGRAM)
    server.bind((lab.addr, 53))
    client = lab.client.socket(kind=socket.SOCK_DGRAM)
    server.settimeout(2)
    client.settimeout(2)
    if lab.mode == "exclusive":
        lab.ping()
    for size in (1, 1400, 9000):
        data = os.urandom(size)
        client.sendto(data, (lab.addr, 53))
        got, addr = server.recvfrom(65536)
        assert got == data
        server.sendto(got, addr)
        assert client.recv(65536) == data
    server.close()
    client.close()


def test_programs_without_the_library(lab):
    """A server and a client that know nothing of the service: their bytes never meet it."""
    if lab.mode == "exclusive":
        lab.ping()
    lab.run_server([tool("talk"), "server", 9000], accelerated=False, ready="ready")
    lab.spawn(lab.client, [tool("talk"), "server", 9001], ready="ready")
    before = {} if lab.plain else lab.counters()
    r = lab.run_client([tool("talk"), "client", lab.addr, 9000, scale(1000, 200), 20, 50000, 1])
    assert '"bad": 0' in r.stdout
    r = lab.server.run([tool("talk"), "client", lab.sources[0], 9001, scale(1000, 200), 20, 50000, 2])
    assert '"bad": 0' in r.stdout
    if not lab.plain:
        after = lab.counters()
        for name in ("adopted", "rx_bytes", "tx_bytes", "shadow_stray"):
            assert after[name] == before[name], name


def test_port_left_to_linux(make_lab):
    """`accelerate = no` for a port: served by the same accelerated program, in Linux."""
    lab = make_lab("shared", config={"port 7": {"accelerate": "no"}})
    echo_server(lab)
    s = lab.connect(PORT)
    for _ in range(50):
        echo_once(s)
    if not lab.plain:
        assert lab.counters()["adopted"] == 0
        assert lab.shadows(PORT)[0]["bytes_received"] >= 50 * 64
    s.close()


def test_start_and_stop_beside_plain_connections(make_lab):
    """Connections that are Linux's go on while the service comes and goes."""
    lab = make_lab("shared", start=False)
    echo_server(lab, accelerated=False)
    s = lab.connect(PORT)
    stop, errors, count = threading.Event(), [], [0]

    def body():
        try:
            while not stop.is_set():
                echo_once(s, os.urandom(500))
                count[0] += 1
        except (OSError, AssertionError) as e:
            errors.append(e)

    t = threading.Thread(target=body)
    t.start()
    try:
        for _ in range(0 if lab.plain else 3):
            lab.start_service()
            assert lab.stop_service() == 0
    finally:
        stop.set()
        t.join(6)
    assert not errors and count[0] > 0
    s.close()


def spoof(wire, last, change, n=5):
    """Frames like the last one the client sent, with a field or two changed, no timestamp, as a stranger would."""
    f = {"seq": last.end, "ack": last.ack, "flags": ACK, "payload": b""}
    f.update(change)
    for i in range(n):
        frame = tcp_frame(last.dmac, last.smac, last.src, last.dst, last.sport, last.dport, f["seq"], f["ack"],
                          f["flags"], f["payload"])
        if f.get("bad_checksum"):
            frame = frame[:50] + bytes((frame[50] ^ 0x55,)) + frame[51:]
        wire.send(frame)


def test_spoofed_frames(lab):
    """SYN, RST, FIN, data and ACKs from someone who does not know the numbers: the connection does not notice."""
    s = fast_echo(lab)
    wire = Wire(lab.client)
    evil = b"EVIL" * 16
    port = s.getsockname()[1]
    changes = [
        {"flags": SYN, "seq": 12345},
        {"flags": SYN | ACK, "seq": 12345},
        {"flags": RST, "seq": FAR},
        {"flags": RST | ACK, "seq": FAR},
        {"flags": RST, "seq": 1000},  # in the window, but not exact (RFC 5961)
        {"flags": FIN | ACK, "seq": FAR},
        {"flags": PSH | ACK, "seq": FAR, "payload": evil},
        {"flags": PSH | ACK, "seq": -1000, "payload": evil},
        {"flags": PSH | ACK, "ack": FAR, "payload": evil},
        {"flags": PSH | ACK, "payload": evil, "bad_checksum": True},
        {"flags": 0, "payload": evil},
        {"flags": PSH, "payload": evil},
    ]
    for change in changes:
        echo_once(s)
        wire.frames()
        echo_once(s)
        last = [x for x in wire.segments(0.02, port) if x.outgoing][-1]
        change = dict(change)
        for k in ("seq", "ack"):
            if k in change:
                change[k] += last.end if k == "seq" else last.ack
        spoof(wire, last, change)
        for _ in range(3):
            echo_once(s)
    if not lab.plain:
        assert lab.flows("FAST", PORT)
    # and strangers from other ports of the same client open nothing
    before = {} if lab.plain else lab.status()
    for sport in range(20000, 20050):
        wire.send(tcp_frame(last.dmac, last.smac, last.src, last.dst, sport, PORT, 1, 1, ACK | PSH, evil))
    echo_once(s)
    if not lab.plain:
        assert lab.status()["fast"] == before["fast"]
    s.close()
    wire.close()


def test_other_clients_in_random_order(lab):
    """Many short connections to an accelerated server beside one that stays: each is answered whole."""
    s = fast_echo(lab)
    for i in range(scale(1000, 150)):
        c = lab.connect(PORT)
        data = os.urandom(i % 3000 + 1)
        for _ in range(i % 4):
            echo_once(c, data)
        c.close()
        if i % 10 == 0:
            echo_once(s)
    s.close()
