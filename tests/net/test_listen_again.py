# SPDX-License-Identifier: GPL-2.0-or-later
"""A program closes its listener and makes it anew at the same port, as iperf3 does, while a connection of that port is
just being adopted or given back: SO_REUSEADDR holds all the time."""
import os
import socket
import sys

from lab import scale

PORT = 7
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
SERVER = """
import socket, sys, time
def made():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((sys.argv[1], 7))
    s.listen(8)
    return s
listener, refused, kept = made(), [], []
print("ready", flush=True)
for i in range(int(sys.argv[2])):
    c, _ = listener.accept()
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(3 + i % 2):
        c.sendall(c.recv(100))
    end = time.perf_counter() + i % 50 * 1e-5
    while time.perf_counter() < end:
        pass
    listener.close()
    try:
        listener = made()
    except OSError as e:
        refused.append("%d: %s" % (i, e))
        time.sleep(0.1)
        listener = made()
    c.sendall(b"listens")
    kept.append(c)
    if len(kept) > 4:
        kept.pop(0).close()
print("refused", refused, flush=True)
"""


def test_listen_again(lab):
    rounds = scale(20000, 3000)
    path = os.path.join(lab.dir, "server.py")
    with open(path, "w") as f:
        f.write(SERVER)
    server = lab.run_server([PYTHON, path, lab.addr, rounds], ready="ready")
    kept = []
    for i in range(rounds):
        s = lab.connect(PORT)
        for k in range(3 + i % 2):
            s.sendall(b"%d" % k)
            assert s.recv(1) == b"%d" % k
        assert s.recv(7, socket.MSG_WAITALL) == b"listens"
        kept.append(s)
        if len(kept) > 4:
            kept.pop(0).close()
    said = server.stdout.read().decode()
    assert "refused []" in said, said
    assert lab.plain or lab.counters()["adopted"] > rounds // 2
