# SPDX-License-Identifier: GPL-2.0-or-later
"""One connection, two processes at the same time: a forked child receives, its parent sends. Many of them, whose halves
are found in two applications by everything that ends a connection, or its stay in the fast path."""
import os
import random
import signal
import socket
import sys
import threading
import time

import pytest

from lab import FastShare, scale, wait_for
from test_return import returned

PORT = 9100
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable

# A process for each connection. It echoes until it is told to go: then its child reads, and it writes what comes from
# the child through a pipe (GOc); or the parent reads, and the child writes (GOp); or the child executes another image,
# which reads (GOcx).
SERVER = """
import os, signal, socket, sys
def read(s, w):
    while d := s.recv(65536):
        while d:
            d = d[os.write(w, d):]
if sys.argv[3:] == ["read"]:
    read(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    os._exit(0)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=64)
print("ready", flush=True)
def write(r, s):
    while d := os.read(r, 65536):
        s.sendall(d)
while True:
    s, _ = listener.accept()
    if os.fork():
        s.close()
        continue
    try:
        while (d := s.recv(65536))[:2] != b"GO":
            s.sendall(d)
        s.sendall(b"G")
        r, w = os.pipe()
        child = os.fork() == 0
        if child and d[3:] == b"x":
            for fd in s.fileno(), w:
                os.set_inheritable(fd, True)
            os.execv(sys.executable, [sys.executable, sys.argv[0], str(s.fileno()), str(w), "read"])
        if child == (d[2:3] == b"c"):
            os.close(r)
            read(s, w)
        else:
            os.close(w)
            write(r, s)
    except OSError:
        os._exit(1)
    os._exit(0)
"""


@pytest.fixture
def server(lab):
    path = os.path.join(lab.dir, "server.py")
    with open(path, "w") as f:
        f.write(SERVER)
    return lab.run_server([PYTHON, path, lab.addr, PORT], ready="ready")


def started(lab, who):
    """A connection that is FAST in one process, and then has two."""
    s = lab.connect(PORT, timeout=30)
    lab.adopt(s)
    s.sendall(b"GO" + who)
    assert s.recv(1) == b"G"
    return s


def pump(s, size, seed, got=None):
    """What is sent comes back. @got: the bytes so far, for whoever watches."""
    data = random.Random(seed).randbytes(size)
    back = got if got is not None else bytearray()

    def send():
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # what comes back says so

    t = threading.Thread(target=send, daemon=True)
    t.start()
    while d := s.recv(1 << 16):
        back += d
    t.join(30)
    s.close()
    assert bytes(back) == data, "%d of %d bytes came back" % (len(back), size)


class Pumps:
    """Several at once; their errors are raised at the end."""

    def __init__(self, lab, n, size, seed):
        self.socks = [started(lab, b"cp"[i % 2:i % 2 + 1]) for i in range(n)]
        self.got = [bytearray() for _ in range(n)]
        self.errors = []
        self.threads = [threading.Thread(target=self.one, args=(i, size, seed + i), daemon=True) for i in range(n)]
        for t in self.threads:
            t.start()

    def one(self, i, size, seed):
        try:
            pump(self.socks[i], size, seed, self.got[i])
        except (OSError, AssertionError) as e:
            self.errors.append("%d: %r" % (i, e))

    def moving(self, least):
        wait_for(lambda: all(len(g) >= least for g in self.got), 20, "%d bytes of each" % least)

    def end(self, timeout=60):
        deadline = time.monotonic() + timeout
        for t in self.threads:
            t.join(max(0.1, deadline - time.monotonic()))
        assert not any(t.is_alive() for t in self.threads), "some hang: %s" % [len(g) for g in self.got]
        return self.errors


def test_carried(lab, server):
    """Both directions of all of them stay in the fast path, to their end."""
    share = FastShare(lab)
    n = scale(60, 10)
    for i in range(n):
        pump(started(lab, (b"c", b"p", b"cx")[i % 3]), 300000 + 70001 * i, i)
    assert Pumps(lab, 6, 3 << 20, 100).end() == []
    share.assert_fast(0.95, n + 6)
    if not lab.plain:
        c = lab.counters()
        assert c["returned"] == c["app_bad_record"] == 0 and c["moved"] >= n + 6, c
        wait_for(lambda: lab.status()["fast"] == 0, 5, "all closed")


def test_returned_in_the_middle(lab, server):
    """They go back to Linux at any moment, with bytes in the buffers of both processes, or while the halves are still
    on their way from one to the other."""
    rnd = random.Random(4)
    rounds, least = scale(100, 12), scale(50, 6)
    for k in range(10 * rounds):
        if k >= rounds and (lab.plain or lab.counters()["returned"] >= least):
            break  # on some machines most have come to their end before they can be released
        p = Pumps(lab, 3, 2 << 20, 1000 * k)
        for _ in range(0 if lab.plain else 3):
            time.sleep(rnd.random() * 0.01)
            lab.tapas("release", "--all")
        assert p.end() == []
    returned(lab, least)


def guarded(run, errors):
    try:
        run()
    except (OSError, AssertionError) as e:
        errors.append(repr(e))


def test_service_stops(lab, server):
    """SIGTERM in the middle: both processes go on with the connection in Linux."""
    if lab.plain:
        pytest.skip("needs the service")
    p = Pumps(lab, 6, 8 << 20, 7)
    p.moving(100000)
    assert lab.stop_service() == 0
    assert p.end() == []


def test_service_killed(lab, server):
    """SIGKILL in the middle: an error for both processes of each, and nobody hangs."""
    if lab.plain:
        pytest.skip("needs the service")
    p = Pumps(lab, 4, 64 << 20, 8)
    p.moving(100000)
    assert len(processes(server.pid)) == 8
    lab.stop_service(signal.SIGKILL)
    wait_for(lambda: not processes(server.pid), 10, "the end of all eight")
    assert not any(len(g) == 64 << 20 for g in p.got)


def test_process_killed(lab, server):
    """Each of the two is killed at some moment: the connection lives as long as the other one, whose bytes are right."""
    if lab.plain:
        pytest.skip("needs the service")
    for k in range(scale(60, 8)):
        s = started(lab, b"c")
        data = random.Random(k).randbytes(4 << 20)
        t = threading.Thread(target=guarded, args=(lambda: s.sendall(data), []), daemon=True)
        t.start()
        back = bytearray()
        while len(back) < 200000:
            back += s.recv(1 << 16)
        pids = processes(server.pid)
        assert len(pids) == 2, pids
        os.kill(pids[k % 2], signal.SIGKILL)
        # the writer comes to the end of the pipe, the reader to the end of what reads it: both end then
        try:
            while d := s.recv(1 << 16):
                back += d
        except ConnectionResetError:
            pass  # as on Linux: bytes that nobody has read
        assert data.startswith(bytes(back)), len(back)
        s.close()
        t.join(10)
        wait_for(lambda: not processes(server.pid), 10, "both have ended")
    wait_for(lambda: lab.status()["fast"] == 0, 5, "all closed: %s" % lab.flows()[:3])
    assert lab.counters()["app_bad_record"] == 0


def processes(parent):
    """Descendants of a process, oldest first."""
    found, todo = [], [parent]
    while todo:
        pid = todo.pop()
        for p in os.listdir("/proc"):
            try:
                if p.isdigit() and open("/proc/%s/stat" % p).read().rsplit(")", 1)[1].split()[1] == str(pid):
                    found.append(int(p))
                    todo.append(int(p))
            except OSError:
                pass
    return sorted(found)


# The child puts the connection into an instance of its own while the service is stopped (its parent lets it go on later).
WATCHED = """
import os, select, signal, socket, sys, time
service = int(sys.argv[3])
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
s, _ = listener.accept()
while (d := s.recv(65536))[:2] != b"GO":
    s.sendall(d)
r, w = os.pipe()
if child := os.fork():
    os.read(r, 1)
    time.sleep(2.5)
    os.kill(service, signal.SIGCONT)
    print("child", os.waitpid(child, 0)[1], flush=True)
    os._exit(0)
signal.alarm(60)
e = select.epoll()
os.kill(service, signal.SIGSTOP)
os.write(w, b"x")
e.register(s, select.EPOLLIN)
while e.poll(30):
    d = s.recv(65536)
    if not d:
        os._exit(0)
    s.sendall(d)
os._exit(1)
"""


def await_stop(lab):
    def stopped():
        with open("/proc/%d/stat" % lab.service.pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "T"

    wait_for(stopped, 20, "the service is stopped")


def served_while_stopped(lab, name, program):
    """The program stops the service and echoes a word meanwhile; returns it, and the counters before and after."""
    path = os.path.join(lab.dir, name)
    with open(path, "w") as f:
        f.write(program)
    server = lab.run_server([PYTHON, path, lab.addr, PORT, lab.service.pid], ready="ready")
    s = lab.connect(PORT, timeout=30)
    lab.adopt(s)
    before = lab.counters()
    s.sendall(b"GO")
    await_stop(lab)
    s.sendall(b"hello")
    assert s.recv(5) == b"hello"
    s.close()
    said = server.communicate(timeout=30)[0].decode()
    return server, said, before, lab.counters()


def test_watched_while_the_service_is_stopped(lab):
    """A child that cannot reach the service puts what it inherited into an epoll instance, and hears of it later."""
    if lab.plain:
        pytest.skip("needs the service")
    _, said, before, after = served_while_stopped(lab, "watched.py", WATCHED)
    assert "child 0" in said
    assert after["moved"] + after["returned"] > before["moved"] + before["returned"], after


# Another image goes on with the connection while the service is stopped.
IMAGE = """
import os, signal, socket, sys, time
signal.alarm(60)
if len(sys.argv) == 3:
    s = socket.socket(fileno=int(sys.argv[2]))
    while d := s.recv(65536):
        s.sendall(d)
    os._exit(0)
service = int(sys.argv[3])
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
s, _ = listener.accept()
while (d := s.recv(65536))[:2] != b"GO":
    s.sendall(d)
os.kill(service, signal.SIGSTOP)
if not os.fork():
    time.sleep(2.5)
    os.kill(service, signal.SIGCONT)
    os._exit(0)
os.set_inheritable(s.fileno(), True)
os.execv(sys.executable, [sys.executable, sys.argv[0], "image", str(s.fileno())])
"""


def test_image_while_the_service_is_stopped(lab):
    """A new image that the service does not answer at once waits for it: the connection is not given up."""
    if lab.plain:
        pytest.skip("needs the service")
    server, _, before, after = served_while_stopped(lab, "image.py", IMAGE)
    assert server.returncode == 0
    assert after["moved"] > before["moved"] and after["flow_reset"] == 0, after
