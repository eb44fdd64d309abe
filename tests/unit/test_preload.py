# SPDX-License-Identifier: GPL-2.0-or-later
"""The interposition library against the pretended service (fake_service.c), over loopback.

Each conversation runs twice: on plain Linux and under the library; what it prints must be
the same, and under the library its connections must have been adopted.
"""
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

import pytest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.environ.get("TAPAS_BUILD", os.path.join(ROOT, "build"))
LIBRARY = os.environ.get("TAPAS_PRELOAD", os.path.join(BUILD, "libtapas-preload.so"))
CFLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-I", ROOT]
IPC = [os.path.join(ROOT, "service/ipc", f) for f in ("msg.c", "reason.c", "record.c")]

pytestmark = pytest.mark.skipif(not os.path.exists(LIBRARY), reason="libtapas-preload.so is not built")


@pytest.fixture(scope="session")
def fake_binary():
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "fake_service")
        subprocess.run(["gcc", *CFLAGS, os.path.join(ROOT, "tests/unit/fake_service.c"), *IPC, "-o", out], check=True)
        yield out


class Fake:
    """The pretended service; counts after stop()."""

    def __init__(self, binary, directory, *args):
        self.path = os.path.join(directory, "s.sock")
        self.proc = subprocess.Popen([binary, self.path, *map(str, args)], stdout=subprocess.PIPE, text=True)
        for _ in range(100):
            if os.path.exists(self.path):
                break
            time.sleep(0.02)

    def env(self):
        return {**os.environ, "LD_PRELOAD": LIBRARY, "TAPAS_SOCKET": self.path}

    def stop(self, sig=signal.SIGTERM):
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        out = self.proc.communicate(timeout=10)[0]
        return {k: int(v) for k, v in re.findall(r"(\w+) (\d+)", out)}


@pytest.fixture
def fake(fake_binary, tmp_path):
    made = []

    def start(*args):
        made.append(Fake(fake_binary, str(tmp_path), *args))
        return made[-1]

    yield start
    for f in made:
        f.stop(signal.SIGKILL)


def run(script, env=None, timeout=40):
    r = subprocess.run([sys.executable, "-c", PRELUDE + script], env=env or dict(os.environ), text=True, timeout=timeout,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert r.returncode == 0, r.stderr + r.stdout
    return r.stdout


# A pair of connected sockets that have exchanged enough to be adopted (after 0 exchanges).
PRELUDE = r"""
import socket, select, threading, os, time, errno, struct, fcntl, signal, array, hashlib, random
def pair(warm=True, timeout=None):
    l = socket.create_server(("127.0.0.1", 0)); l.setblocking(True)
    c = socket.create_connection(l.getsockname())
    s, _ = l.accept()
    l.close()
    for x in (c, s): x.settimeout(timeout); x.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if warm:
        for _ in range(3):
            c.sendall(b"w"); assert s.recv(10) == b"w"
            s.sendall(b"w"); assert c.recv(10) == b"w"
        settle()
    return c, s
def settle():
    time.sleep(0.05)
def err(f, *a):
    try:
        return ("ok", f(*a))
    except OSError as e:
        return errno.errorcode[e.errno]
"""

CONVERSATIONS = {
    "blocking": r"""
c, s = pair()
def server():
    while True:
        d = s.recv(5000)
        if not d: break
        s.sendall(d)
t = threading.Thread(target=server); t.start()
r = random.Random(1)
for i in range(200):
    d = r.randbytes(r.randrange(1, 30000)); c.sendall(d)
    got = b""
    while len(got) < len(d): got += c.recv(len(d) - len(got))
    assert got == d
settle(); c.close(); t.join(10); print("done", t.is_alive())
""",
    "bulk": r"""
c, s = pair()
d = random.Random(2).randbytes(20 << 20)
def sender():
    c.sendall(d); time.sleep(0.2); c.shutdown(socket.SHUT_WR)
t = threading.Thread(target=sender); t.start()
h = hashlib.sha1(); n = 0
while True:
    x = s.recv(100000)
    if not x: break
    h.update(x); n += len(x)
t.join(); print(n, h.hexdigest() == hashlib.sha1(d).hexdigest())
print(err(c.send, b"x"))
""",
    "flags": r"""
c, s = pair()
c.sendall(b"abcdef"); settle()
print(s.recv(3, socket.MSG_PEEK), s.recv(3), s.recv(10))
print(err(s.recv, 10, socket.MSG_DONTWAIT))
s.setblocking(False); print(err(s.recv, 10)); s.setblocking(True)
def later(): time.sleep(0.1); c.sendall(b"12345"); time.sleep(0.1); c.sendall(b"67890")
t = threading.Thread(target=later); t.start()
print(s.recv(10, socket.MSG_WAITALL)); t.join()
b = [bytearray(2), bytearray(3)]
c.sendmsg([b"ab", b"c", b"de"]); settle(); print(s.recvmsg_into(b)[0], b)
c.sendall(b"xyz"); settle()
n = array.array("i", [0]); fcntl.ioctl(s, 0x541B, n); print(n[0])
print(s.recvfrom(100)[0], s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 100000))
t0 = time.time(); print(err(s.recv, 5), 0.05 < time.time() - t0 < 1)
print(os.write(c.fileno(), b"file"), (settle(), os.read(s.fileno(), 10))[1])
print(os.writev(c.fileno(), [b"a", b"b"]), (settle(), s.recv(10))[1])
""",
    "eof_and_poll": r"""
c, s = pair()
p = select.poll(); p.register(s, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
print(sorted(x[1] for x in p.poll(100)))
p.modify(s, select.POLLIN | select.POLLRDHUP); print(p.poll(50))
threading.Timer(0.1, lambda: c.sendall(b"hi")).start(); print([x[1] for x in p.poll(3000)])
print(s.recv(10)); threading.Timer(0.1, lambda: c.shutdown(socket.SHUT_WR)).start()
print([x[1] for x in p.poll(3000)]); print(s.recv(10), s.recv(10))
s.sendall(b"still"); print(c.recv(10)); s.shutdown(socket.SHUT_WR); settle(); print([x[1] for x in p.poll(100)])
print(err(s.send, b"x"))
""",
    "select": r"""
c, s = pair(); r, w = os.pipe()
print([len(x) for x in select.select([s, r], [s, w], [s], 0)])
print(select.select([s], [], [], 0.05))
os.write(w, b"x"); print(select.select([s, r], [], [], 1)[0] == [r])
os.read(r, 1); threading.Timer(0.1, lambda: c.sendall(b"hi")).start(); print(select.select([s, r], [], [], 3)[0] == [s])
s.recv(10); threading.Timer(0.1, lambda: os.write(w, b"x")).start(); print(select.select([s, r], [], [], 3)[0] == [r])
""",
    "epoll": r"""
def names(ev, *socks): return [(["cs"[i] for i, x in enumerate(socks) if x.fileno() == fd], e) for fd, e in ev]
IN, OUT, ET, ONE, HUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLET, select.EPOLLONESHOT, select.EPOLLRDHUP
for flags in (0, ET, ONE):
    for early in (True, False):   # registered before, or after the adoption
        c, s = pair(warm=not early)
        e = select.epoll(); e.register(s, IN | HUP | flags)
        if early:
            for _ in range(3):
                c.sendall(b"w"); e.poll(1); e.modify(s, IN | HUP | flags); assert s.recv(10) == b"w"
                s.sendall(b"w"); assert c.recv(10) == b"w"
            settle(); e.poll(0.02); e.modify(s, IN | HUP | flags)
        print(flags, "none", names(e.poll(0.02), c, s))
        c.sendall(b"ab"); print("data", names(e.poll(1), c, s)); print("again", names(e.poll(0.02), c, s))
        s.recv(1); print("part", names(e.poll(0.02), c, s))
        e.modify(s, IN | HUP | flags); print("mod", names(e.poll(0.02), c, s))
        s.recv(10); e.modify(s, OUT | flags); print("out", names(e.poll(0.02), c, s)); print("out", names(e.poll(0.02), c, s))
        e.modify(s, IN | HUP | flags)
        threading.Timer(0.1, lambda: c.sendall(b"x")).start(); print("sleep", names(e.poll(3), c, s)); s.recv(10)
        e.modify(s, IN | HUP | flags)
        print(err(e.register, s, IN))
        c.close(); settle(); print("close", names(e.poll(1), c, s))
        e.unregister(s); print(err(e.modify, s, IN), err(e.unregister, s), e.poll(0.02))
        s.close(); e.close()
""",
    "epoll_many": r"""
ps = [pair() for _ in range(20)]; e = select.epoll(); e2 = select.epoll()
for c, s in ps: e.register(s, select.EPOLLIN); e2.register(s, select.EPOLLIN)
seen = set(); [c.sendall(b"x") for c, s in ps]; settle()
for _ in range(30): seen |= {fd for fd, ev in e.poll(0.1, 3)}
print(len(seen), len(e2.poll(1)))
for c, s in ps: s.recv(1)
print(e.poll(0.02), e2.poll(0.02))
res = []
def wait(x): res.append(len(x.poll(3)))
ts = [threading.Thread(target=wait, args=(x,)) for x in (e, e2)]; [t.start() for t in ts]
time.sleep(0.1); ps[7][0].sendall(b"y"); [t.join() for t in ts]; print(res)
""",
    "dup_fork": r"""
c, s = pair(); d = socket.socket(fileno=os.dup(s.fileno())); s.close()
c.sendall(b"via dup"); print(d.recv(20)); d.sendall(b"back"); print(c.recv(20))
pid = os.fork()
if pid == 0:
    a, b = pair(); a.sendall(b"child"); ok = b.recv(9) == b"child"; os._exit(0 if ok else 1)
print(os.waitpid(pid, 0)[1]); c.sendall(b"after"); print(d.recv(20))
os.closerange(max(c.fileno(), d.fileno()) + 1, 4096)
for _ in range(3): c.sendall(b"q"); assert d.recv(9) == b"q"; d.sendall(b"q"); assert c.recv(9) == b"q"
import subprocess; print(subprocess.run(["true"]).returncode); c.sendall(b"end"); print(d.recv(20))
""",
    "sendfile": r"""
import tempfile
c, s = pair(); f = tempfile.TemporaryFile(); data = os.urandom(3000000); f.write(data); f.seek(0)
def go():
    off = 0
    while off < len(data): off += os.sendfile(c.fileno(), f.fileno(), off, len(data) - off)
t = threading.Thread(target=go); t.start(); got = bytearray()
while len(got) < len(data): got += s.recv(1 << 20)
t.join(); print(bytes(got) == data)
r, w = os.pipe(); os.write(w, b"pipe"); print(os.splice(r, c.fileno(), 100), s.recv(10))
c.sendall(b"epip"); print(os.splice(s.fileno(), w, 100), os.read(r, 10))
""",
    "signals": r"""
c, s = pair()
hits = []
signal.signal(signal.SIGALRM, lambda *a: (hits.append(1), c.sendall(b"sig")))
signal.setitimer(signal.ITIMER_REAL, 0.1); print(s.recv(10), hits)
class T(Exception): pass
def boom(*a): raise T
signal.signal(signal.SIGALRM, boom); signal.setitimer(signal.ITIMER_REAL, 0.1)
try: s.recv(10)
except T: print("interrupted")
e = select.epoll(); e.register(s, select.EPOLLIN); signal.setitimer(signal.ITIMER_REAL, 0.1)
try: e.poll(3)
except T: print("interrupted")
c.sendall(b"fine"); print(s.recv(10))
""",
    "reset": r"""
c, s = pair(); s.sendall(b"unread"); settle()
c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); c.close(); settle()
print(err(s.recv, 10) in ("ECONNRESET", ("ok", b"")))
""",
}


@pytest.mark.parametrize("name", sorted(CONVERSATIONS))
def test_as_linux(name, fake):
    want = run(CONVERSATIONS[name])
    f = fake(0)
    got = run(CONVERSATIONS[name], f.env())
    counts = f.stop()
    assert got == want
    assert counts["adopted"] >= 2, counts


@pytest.mark.parametrize("every,delay", [(2, 0), (1, 3), (3, 20)])
@pytest.mark.parametrize("name", ["blocking", "bulk", "epoll_many", "eof_and_poll", "sendfile", "select"])
def test_refusals(name, every, delay, fake):
    """Refused again and again, answers late: nothing differs."""
    want = run(CONVERSATIONS[name])
    f = fake(0, every, delay)
    assert run(CONVERSATIONS[name], f.env()) == want
    counts = f.stop()
    assert counts["refused"] >= 1 or every > 2, counts


@pytest.mark.parametrize("name", ["blocking", "epoll", "select", "dup_fork"])
def test_no_service(name, tmp_path):
    env = {**os.environ, "LD_PRELOAD": LIBRARY, "TAPAS_SOCKET": str(tmp_path / "none")}
    assert run(CONVERSATIONS[name], env) == run(CONVERSATIONS[name])


def test_service_dies(fake):
    """Adopted connections fail at once, also for sleepers; new ones are Linux's."""
    f = fake(0)
    script = r"""
c, s = pair(); e = select.epoll(); e.register(s, select.EPOLLIN)
threading.Timer(0.2, lambda: os.kill(%d, 9)).start()
print(bool(e.poll(5)[0][1] & select.EPOLLERR), err(s.recv, 1), err(c.recv, 1))
a, b = pair(); a.sendall(b"linux"); print(b.recv(10))
""" % f.proc.pid
    assert run(script, f.env()) == "True ECONNRESET ECONNRESET\nb'linux'\n"


def test_asked_again(fake):
    """Children that are told again and again to ask later for what they inherited: none of them sleeps for ever."""
    f = fake(0, 0, 0, 1500)
    run(r"""
pairs = [pair() for _ in range(8)]; pids = []
for c, s in pairs:
    pid = os.fork()
    if not pid:
        signal.alarm(30); s.sendall(b"child"); assert s.recv(10) == b"parent"; os._exit(0)
    pids.append(pid)
for c, s in pairs:
    c.settimeout(30); assert c.recv(10) == b"child"; c.sendall(b"parent")
for pid in pids: assert os.waitpid(pid, 0)[1] == 0
""", f.env(), timeout=60)
    counts = f.stop()
    assert counts["retry"] >= 8 * 1500, counts
    assert counts["adopted"] >= 16 + 8, counts
