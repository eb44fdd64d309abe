# SPDX-License-Identifier: GPL-2.0-or-later
"""Two processes use one connection at a time: one sleeps in its read while the other writes. Where it sleeps unseen, in
the kernel's socket, the connection stays with Linux until it has gone; else each may have its direction."""
import os
import socket
import sys

import pytest

from lab import FastShare, wait_for

PORT = 7
ROUNDS = 60
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
SERVER = """
import os, signal, socket, sys
listener = socket.create_server((sys.argv[1], 7))
print("ready", flush=True)
s, _ = listener.accept()
r, w = os.pipe()
child = os.fork()
if not child:
    %s
    os._exit(1)
os.close(w)
buf = b""
while not buf.endswith(b"END"):
    d = os.read(r, 65536)
    s.sendall(d)
    buf = buf[-2:] + d[-3:]
os.kill(child, signal.SIGKILL); os.wait()
s.sendall(b"alone")
while d := s.recv(65536):
    s.sendall(d)
"""
EXEC = "os.dup2(s.fileno(), 0); os.dup2(w, 1); os.execvpe('cat', ['cat'], %s)"
SEEN = ("a child", "an image")  # their read() is the library's
READERS = {
    "a child": "while d := s.recv(65536): os.write(w, d)",
    "a child that polls": """import select
    while select.select([s], [], [])[0]:
        os.write(w, s.recv(65536))""",
    "an image": EXEC % "os.environ",
    "an image without the library": EXEC % "{k: v for k, v in os.environ.items() if k != 'LD_PRELOAD'}",
}


def echo(s, data):
    s.sendall(data)
    got = b""
    while len(got) < len(data):
        d = s.recv(65536)
        assert d, "end after %d of %d bytes" % (len(got), len(data))
        got += d
    assert got == data


@pytest.mark.parametrize("reader", READERS)
def test_reader_and_writer(lab, reader):
    path = os.path.join(lab.dir, "server.py")
    with open(path, "w") as f:
        f.write(SERVER % READERS[reader])
    lab.run_server([PYTHON, "-u", path, lab.addr], ready="ready")
    with lab.connect(PORT, timeout=10) as s:
        for i in range(ROUNDS):
            echo(s, bytes([i]) * (1 + 97 * i))
        for i in range(0 if lab.plain else 3000):  # until somebody has tried: XDP may have to be attached first
            if lab.counters()["adopt_refused"] or (reader in SEEN and lab.flows("FAST")):
                break
            echo(s, bytes([i & 255]) * 2000)
        if not lab.plain:
            fast = lab.flows("FAST")
            assert lab.counters()["adopt_refused"] or fast, "nobody has tried"
            assert reader in SEEN or not fast, "a reader sleeps in the kernel on it"
        s.sendall(b"END")
        assert s.makefile("rb", 0).read(3) == b"END"
        assert s.recv(5, socket.MSG_WAITALL) == b"alone"
        if lab.plain:
            return
        for i in range(3000):
            echo(s, b"x" * 1000)
            if i % 20 == 0 and lab.flows("FAST"):
                break
        share = FastShare(lab)
        for i in range(10):
            echo(s, b"y" * 1000)
        share.assert_fast(connections=0)
    wait_for(lambda: not lab.flows("FAST"), 5, "the connection to be closed")
