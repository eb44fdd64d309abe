# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls on adopted connections, beside plain Linux: bad pointers, flags, messages, splice, options,
calls by number, and what goes back to Linux first. See test_preload.py for how it works.
"""
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from test_preload import fake, fake_binary, pytestmark, run  # noqa: F401 pylint: disable=unused-import

# libc's functions by ctypes; say() prints the result or the error's name.
C = r"""
import ctypes, mmap
L = ctypes.CDLL(None, use_errno=True)
class iovec(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
class msghdr(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("namelen", ctypes.c_uint), ("iov", ctypes.c_void_p), ("iovlen", ctypes.c_size_t),
                ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t), ("flags", ctypes.c_int)]
class mmsghdr(ctypes.Structure): _fields_ = [("h", msghdr), ("len", ctypes.c_uint)]
def call(name, *args):
    f = getattr(L, name); f.restype = ctypes.c_ssize_t; ctypes.set_errno(0)
    r = f(*[ctypes.c_void_p(a) if isinstance(a, int) else a for a in args]) if name != "syscall" else f(
        *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    r = ctypes.c_int(r).value if r in (0xffffffff,) else r
    return r if r >= 0 else errno.errorcode[ctypes.get_errno()]
def say(name, *args): print(name, call(name, *args))
def addr(b): return ctypes.addressof(b)
buf = ctypes.create_string_buffer(100); P = addr(buf)
kept = []
def iov(*pieces):
    v = (iovec * len(pieces))(); kept.append(v)
    for x, (b, n) in zip(v, pieces): x.base, x.len = b, n
    return v
m = mmap.mmap(-1, 8192); A = ctypes.addressof(ctypes.c_char.from_buffer(m)); L.mprotect(ctypes.c_void_p(A + 4096), 4096, 0)
BAD = A + 4096   # not accessible; the page before it is
def wait_for(f):
    for _ in range(400):
        if f(): return True
        time.sleep(0.01)
    return False
"""

CALLS = {
    "pointers": r"""
c, s = pair(); fd, wd = s.fileno(), c.fileno(); c.sendall(b"data"); settle()
for p in (16, BAD, BAD - 2, 1 << 62, (1 << 47) - 8192):
    say("read", fd, p, 4); say("recv", fd, p, 4, 0); say("recv", fd, p, 4, socket.MSG_PEEK)
    say("readv", fd, p, 1); say("recvmsg", fd, p, 0); say("preadv2", fd, p, 1, -1, 0)
    say("write", wd, p, 4); say("send", wd, p, 4, 0); say("writev", wd, p, 1); say("sendmsg", wd, p, 0)
    v = iov((P, 2), (p, 2)); say("readv", fd, addr(v), 2); say("writev", wd, addr(v), 2)
    h = msghdr(iov=addr(v), iovlen=2); say("recvmsg", fd, addr(h), 0); say("sendmsg", wd, addr(h), 0)
    h = msghdr(iov=p, iovlen=1); say("recvmsg", fd, addr(h), 0); say("sendmsg", wd, addr(h), 0)
    say("ioctl", fd, 0x541B, p); say("sendto", wd, P, 1, 0, p, 16)
print(s.recv(10)); m[4092:4096] = b"edge"; say("write", wd, BAD - 4, 4); settle(); print(s.recv(10))
c.sendall(b"same"); settle(); say("read", fd, BAD - 4, 4); print(m[4092:4096])
c.sendall(b"12"); settle(); say("recvfrom", fd, P, 1, 0, P, 0); say("recvfrom", fd, P, 1, 0, P, 16); settle()
c.sendall(b"end"); print(s.recv(10))
""",
    "counts": r"""
c, s = pair(); fd, wd = s.fileno(), c.fileno(); s.setblocking(False)
v = iov(*[(P, 0)] * 1025)
for n in (0, 1, 1024, 1025, -1, 1 << 31):
    say("readv", fd, addr(v), n); say("writev", wd, addr(v), n); say("preadv2", fd, addr(v), n, -1, 0)
    h = msghdr(iov=addr(v), iovlen=n); say("recvmsg", fd, addr(h), 0); say("sendmsg", wd, addr(h), 0)
c.sendall(b"data"); settle()
say("readv", fd, addr(iov((P, -1))), 1); say("readv", fd, addr(iov((P, 4), (P, (1 << 63) - 1))), 2)
say("read", fd, P, -1); say("write", wd, P, -1); say("preadv2", fd, addr(iov((P, 4))), 1, -1, 0x40000000)
say("preadv2", fd, addr(iov((P, 4))), 1, 0, 0); say("recv", fd, P, -1, 0); print(buf.raw[:4])
print(err(s.recv, 0)); c.sendall(b"x"); settle(); print(err(s.recv, 0), s.recv(5))
""",
    "waitall": r"""
def later(*parts):
    def go():
        for p in parts: time.sleep(0.08); c.sendall(p)
    t = threading.Thread(target=go); t.start(); return t
c, s = pair(); A_, PK = socket.MSG_WAITALL, socket.MSG_PEEK
t = later(b"first", b"second"); b = [bytearray(3), bytearray(0), bytearray(8)]; print(s.recvmsg_into(b, 0, A_)[0], b); t.join()
t = later(b"first", b"second"); print(s.recv(11, A_ | PK), s.recv(11, A_ | PK), s.recv(20)); t.join()
t = later(b"abc", b"def"); print(s.recv(2, PK), s.recv(6, A_), err(s.recv, 5, A_ | socket.MSG_DONTWAIT)); t.join()
c.sendall(b"xyz"); settle(); print(s.recv(9, A_ | socket.MSG_DONTWAIT))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 200000)); c.sendall(b"part"); print(s.recv(9, A_))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
signal.signal(signal.SIGALRM, lambda *a: None); signal.siginterrupt(signal.SIGALRM, True)
c.sendall(b"sig"); settle(); signal.setitimer(signal.ITIMER_REAL, 0.1); print(call("recv", s.fileno(), P, 9, A_), buf.raw[:3])
signal.setitimer(signal.ITIMER_REAL, 0.1); print(call("recv", s.fileno(), P, 9, A_))
c.sendall(b"discarded"); settle(); print(call("recv", s.fileno(), 0, 4, socket.MSG_TRUNC), s.recv(20))
c.sendall(b"last"); settle(); c.shutdown(socket.SHUT_WR); print(s.recv(9, A_), s.recv(9, A_), s.recv(9, A_ | PK))
""",
    "lowat": r"""
c, s = pair(); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 10); c.sendall(b"12345"); settle()
p = select.poll(); p.register(s, select.POLLIN); e = select.epoll(); e.register(s, select.EPOLLIN | select.EPOLLET)
print(p.poll(0), select.select([s], [], [], 0)[0], e.poll(0)); s.setblocking(False); print(s.recv(2)); s.setblocking(True)
threading.Timer(0.1, lambda: c.sendall(b"67890abc")).start(); print(len(p.poll(3000)), len(e.poll(3)), s.recv(50))
c.sendall(b"xyz"); settle(); print(len(p.poll(0))); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1); print(len(p.poll(0)), s.recv(9))
""",
    "messages": r"""
c, s = pair(); fd, wd = s.fileno(), c.fileno()
def vec(*sizes):
    v = (mmsghdr * len(sizes))(); v.b = [ctypes.create_string_buffer(n) for n in sizes]; v.v = [iov((addr(b), n)) for b, n in zip(v.b, sizes)]
    for x, i in zip(v, v.v): x.h.iov, x.h.iovlen = addr(i), 1
    return v
def got(v, n): print([(x.len, b.raw[:x.len], x.h.flags) for x, b in zip(v[:n] if n else [], v.b)])
v = vec(4, 4, 5)
for b, t in zip(v.b, (b"one ", b"two ", b"three")): b.raw = t
print(call("sendmmsg", wd, addr(v), 3, 0), [x.len for x in v]); settle()
r = vec(4, 4, 9); print(call("recvmmsg", fd, addr(r), 3, 0, 0)); got(r, 3)
c.sendall(b"abcdef"); settle(); r = vec(4, 4, 4); n = call("recvmmsg", fd, addr(r), 3, 0x10000, 0); print(n); got(r, n)
ts = (ctypes.c_long * 2)(0, 1000000); c.sendall(b"12345678"); settle()
r = vec(4, 4, 4); threading.Timer(0.1, lambda: c.sendall(b"90")).start(); print(call("recvmmsg", fd, addr(r), 3, 0, addr(ts)) in (2, 3))
s.settimeout(1); rest = b"" if r[2].len else s.recv(9); s.settimeout(None)
for t in ((-1, 0), (0, 1000000000)):
    ts = (ctypes.c_long * 2)(*t); print(call("recvmmsg", fd, addr(r), 1, 0, addr(ts)))
print(call("recvmmsg", fd, addr(r), 1, 0x40, BAD), call("recvmmsg", fd, addr(r), 0, 0, 0), call("sendmmsg", wd, BAD, 1, 0))
CM = socket.CMSG_SPACE
for level, kind, data in ((socket.SOL_SOCKET, 99, b"1234"), (77, 1, b"1234"), (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 0))):
    print(err(c.sendmsg, [b"c"], [(level, kind, data)]))
h = msghdr(iov=addr(iov((P, 1))), iovlen=1, control=P, controllen=3); print(call("sendmsg", wd, addr(h), 0)); settle(); print(s.recv(9))
h = msghdr(iov=addr(iov((P, 9))), iovlen=1, name=P + 50, namelen=20, control=P + 60, controllen=20, flags=-1); c.sendall(b"n"); settle()
print(call("recvmsg", fd, addr(h), 0), h.namelen, h.controllen, h.flags)
h = msghdr(iov=addr(iov((P, 9))), iovlen=1, namelen=7); c.sendall(b"n"); settle(); print(call("recvmsg", fd, addr(h), 0), h.namelen)
h = msghdr(iov=addr(iov((P, 9))), iovlen=1, name=P, namelen=0x80000000); print(call("recvmsg", fd, addr(h), socket.MSG_DONTWAIT))
s.setsockopt(socket.IPPROTO_TCP, 36, 1); c.sendall(b"inquiry"); settle()
print([(l, t, d) for l, t, d in s.recvmsg(3, 100)[1]], s.recvmsg(9, 4)[2] == socket.MSG_CTRUNC)
s.shutdown(socket.SHUT_WR); c.close(); settle(); r = vec(3, 3); print(call("recvmmsg", fd, addr(r), 2, 0, 0)); got(r, 2)
""",
    "splice": r"""
c, s = pair(); fd, wd = s.fileno(), c.fileno(); r, w = os.pipe(); NB, MORE = 2, 4
f = os.open("/proc/self/exe", os.O_RDONLY); c2, s2 = pair()
for a in ((fd, 0, w, 0, 5, 1 << 20), (fd, 0, wd, 0, 5, 0), (fd, 0, f, 0, 5, 0), (fd, 0, 999, 0, 5, 0), (fd, 0, r, 0, 5, 0), (fd, P, w, 0, 5, 0),
          (fd, 0, w, P, 5, 0), (fd, BAD, w, 0, 5, 0), (w, 0, wd, 0, 5, 0), (r, P, wd, 0, 5, 0), (r, 0, wd, P, 5, 0), (999, 0, wd, 0, 5, 0), (fd, 0, w, 0, 0, 0)):
    say("splice", *a)
say("tee", fd, w, 5, 0); say("vmsplice", fd, addr(iov((P, 1))), 1, 0)
c.sendall(b"hello"); settle(); say("splice", fd, 0, w, 0, 3, 0); say("splice", fd, 0, w, 0, 100, NB); print(os.read(r, 9))
threading.Timer(0.1, lambda: c.sendall(b"late")).start(); say("splice", fd, 0, w, 0, 100, NB); print(os.read(r, 9))
s.setblocking(False); say("splice", fd, 0, w, 0, 100, 0); s.setblocking(True)
say("splice", r, 0, wd, 0, 100, NB); os.write(w, b"up"); say("splice", r, 0, wd, 0, 1, 0); say("splice", r, 0, wd, 0, 100, MORE); c.sendall(b"."); settle(); print(s.recv(9))
os.set_blocking(w, False); n = 0
try:
    while True: n += os.write(w, b"f" * 4096)
except BlockingIOError: pass
c.sendall(b"data"); settle(); say("splice", fd, 0, w, 0, 100, 0); os.set_blocking(w, True); say("splice", fd, 0, w, 0, 100, NB)
threading.Timer(0.1, lambda: os.read(r, 8192)).start(); say("splice", fd, 0, w, 0, 100, 0)
while n: n -= len(os.read(r, n)) if n > 4 - 8192 + 4096 and select.select([r], [], [], 0)[0] else n
while select.select([r], [], [], 0)[0]: os.read(r, 65536)
# a proxy: connection, pipe, connection
d = random.Random(7).randbytes(3 << 20); h = hashlib.sha1(); k = [0]
def feed(): c.sendall(d); time.sleep(0.3); c.shutdown(socket.SHUT_WR)
def sink():
    while True:
        x = s2.recv(100000)
        if not x: break
        h.update(x); k[0] += len(x)
ts = [threading.Thread(target=x) for x in (feed, sink)]; [t.start() for t in ts]
while True:
    n = os.splice(fd, w, 1 << 20)
    if not n: break
    while n: n -= os.splice(r, c2.fileno(), n)
time.sleep(0.3); c2.shutdown(socket.SHUT_WR); [t.join(20) for t in ts]; print(k[0], h.hexdigest() == hashlib.sha1(d).hexdigest())
os.close(w); say("splice", r, 0, s.fileno(), 0, 9, 0); r, w = os.pipe(); os.close(r); c, s = pair(); c.sendall(b"x"); settle()
signal.signal(signal.SIGPIPE, signal.SIG_IGN); say("splice", s.fileno(), 0, w, 0, 9, 0); print(s.recv(9))
""",
    "sendfile": r"""
import tempfile
c, s = pair(); wd = c.fileno(); f = tempfile.TemporaryFile(); f.write(bytes(range(200))); f.flush(); r, w = os.pipe()
off = ctypes.c_long
for o in (-1, 500):
    x = off(o); print(call("sendfile", wd, f.fileno(), addr(x), 10), x.value)
say("sendfile", wd, f.fileno(), BAD, 10); say("sendfile", wd, 999, 0, 10); say("sendfile", wd, r, 0, 10); say("sendfile", wd, s.fileno(), 0, 10)
o = os.open("/dev/null", os.O_WRONLY); say("sendfile", wd, o, 0, 10); say("sendfile", wd, f.fileno(), 0, 0)
f.seek(150); say("sendfile", wd, f.fileno(), 0, 500); print(f.tell(), os.lseek(f.fileno(), 0, 1)); settle(); print(s.recv(500) == bytes(range(150, 200)))
x = off(10); say("sendfile64", wd, f.fileno(), addr(x), 5); settle(); print(x.value, s.recv(9))
c.sendall(b"to a pipe"); settle(); c2, s2 = s, c; say("sendfile", w, s.fileno(), 0, 4); print(os.read(r, 9), s.recv(9))
c.shutdown(socket.SHUT_WR); signal.signal(signal.SIGPIPE, signal.SIG_IGN); say("sendfile", wd, f.fileno(), addr(x), 5)
""",
    "numbers": r"""
c, s = pair(); fd, wd = s.fileno(), c.fileno(); buf.raw = b"0123456789" * 10
def sc(n, *a): return call("syscall", n, *a)
N = dict(read=0, write=1, readv=19, writev=20, recvfrom=45, sendto=44, recvmsg=47, sendmsg=46, preadv2=327, pwritev2=328, recvmmsg=299, sendmmsg=307)
v = iov((P, 4)); h = msghdr(iov=addr(v), iovlen=1); mm = mmsghdr(h=h)
for n, a in (("write", (P, 4)), ("sendto", (P, 4, 0, 0, 0)), ("writev", (addr(v), 1)), ("sendmsg", (addr(h), 0)), ("pwritev2", (addr(v), 1, -1, 0, 0)), ("sendmmsg", (addr(mm), 1, 0))):
    print(n, sc(N[n], wd, *a)); settle()
for n, a in (("read", (P, 4)), ("recvfrom", (P, 4, 0, 0, 0)), ("readv", (addr(v), 1)), ("recvmsg", (addr(h), 0)), ("preadv2", (addr(v), 1, -1, 0, 0)), ("recvmmsg", (addr(mm), 1, 0, 0))):
    print(n, sc(N[n], fd, *a), buf.raw[:4])
pf = struct.pack("ihh", fd, 1, 0); b = ctypes.create_string_buffer(pf, 8); t = (ctypes.c_long * 2)(0, 50000000)
print("poll", sc(7, addr(b), 1, 10), "ppoll", sc(271, addr(b), 1, addr(t), 0, 8), list(t)); c.sendall(b"x"); settle()
t = (ctypes.c_long * 2)(5, 0); print("ppoll", sc(271, addr(b), 1, addr(t), 0, 8), 0 <= t[0] <= 5, "mask", sc(271, addr(b), 1, 0, BAD, 8), sc(271, addr(b), 1, 0, P, 7))
e = sc(291, 0); ev = ctypes.create_string_buffer(struct.pack("<IQ", 1, 77), 12); print("epoll", sc(233, e, 1, fd, addr(ev)), sc(232, e, addr(ev), 1, 1000), struct.unpack("<IQ", ev.raw))
print("fcntl", sc(72, fd, 4, os.O_NONBLOCK), s.recv(9), sc(0, fd, P, 4), sc(72, fd, 4, 0)); n = ctypes.c_int(); c.sendall(b"abc"); settle()
print("ioctl", sc(16, fd, 0x541B, addr(n)), n.value); d = sc(32, fd); print("dup", s.recv(9), c.send(b"y"), (settle(), sc(0, d, P, 9))[1], sc(3, d), sc(3, d))
ln = ctypes.c_int(4); print("sockopt", sc(55, fd, 6, 1, addr(n), addr(ln)), n.value, "shutdown", sc(48, fd, 1), c.recv(3), "getpid", sc(39) == os.getpid(), sc(99999))
""",
    "stdio": r"""
L.fdopen.restype = ctypes.c_void_p; L.fgets.restype = ctypes.c_void_p
def close(f): return L.fclose(ctypes.c_void_p(f))
c, s = pair(); f = L.fdopen(s.fileno(), b"r+"); c.sendall(b"line one\nline"); settle(); print(bool(L.fgets(buf, 100, ctypes.c_void_p(f))), buf.value)
threading.Timer(0.1, lambda: c.sendall(b" two\n")).start(); L.fgets(buf, 100, ctypes.c_void_p(f)); print(buf.value)
s.sendall(b"1 "); L.fputs(b"2 ", ctypes.c_void_p(f)); L.fflush(ctypes.c_void_p(f)); s.sendall(b"3 "); L.dprintf(s.fileno(), b"%d ", 4); settle(); print(c.recv(99))
c, s = pair(); print(L.dprintf(s.fileno(), b"x %s", b"y")); settle(); print(c.recv(9))
c, s = pair(); r = os.dup(0); L.dup2(s.fileno(), 0); c.sendall(b"word \n"); L.scanf(b"%s", buf); print(buf.value); L.dup2(r, 0)
""",
    "signals_io": r"""
hits = []
signal.signal(signal.SIGIO, lambda *a: hits.append("io")); signal.signal(signal.SIGPIPE, lambda *a: hits.append("pipe"))
for how in ("fcntl", "ioctl"):
    c, s = pair(); fcntl.fcntl(s, fcntl.F_SETOWN, os.getpid())
    if how == "fcntl": fcntl.fcntl(s, fcntl.F_SETFL, fcntl.fcntl(s, fcntl.F_GETFL) | os.O_ASYNC)
    else: fcntl.ioctl(s, 0x5452, struct.pack("i", 1))
    hits.clear(); c.sendall(b"x"); print(how, wait_for(lambda: hits), set(hits), s.recv(9), fcntl.fcntl(s, fcntl.F_GETOWN) == os.getpid())
c, s = pair(); c.shutdown(socket.SHUT_WR); hits.clear()
print(call("send", c.fileno(), P, 3, socket.MSG_NOSIGNAL), hits, call("send", c.fileno(), P, 3, 0), hits, call("write", c.fileno(), P, 0), len(hits))
""",
    "urgent": r"""
c, s = pair(); print(c.send(b"abU", socket.MSG_OOB)); c.sendall(b"cd"); settle(); s.settimeout(3); g = b""
while not g.endswith(b"d"): g += s.recv(9)
print(g in (b"abcd", b"abUcd")); c, s = pair(); print(err(s.recv, 1, socket.MSG_OOB)); c.sendall(b"on"); print(s.recv(9))
""",
    "options": r"""
SOL, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
def works(): c.sendall(b"go"); settle(); s.sendall(b"on"); settle(); return s.recv(9), c.recv(9)
c, s = pair(); ln = ctypes.c_int(100); print(call("getsockopt", s.fileno(), 1, 26, P, addr(ln)), ln.value, err(s.setsockopt, SOL, 27, 0))
print(err(s.setsockopt, TCP, 31, b"no-such"), works())
prog = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xffffffff), 8)
s.setsockopt(SOL, 26, struct.pack("HxxxxxxQ", 1, addr(prog))); ln = ctypes.c_int(100); print(call("getsockopt", s.fileno(), 1, 26, P, addr(ln)), ln.value, works())
for level, name, v in ((SOL, socket.SO_OOBINLINE, 1), (SOL, 47, 10000000), (SOL, 29, 1), (SOL, 60, 1), (TCP, 37, 0)):
    c, s = pair(); print(name, err(s.setsockopt, level, name, v), s.getsockopt(level, name), works())
c, s = pair(); s.setsockopt(SOL, socket.SO_SNDTIMEO, struct.pack("ll", 0, 100000)); s.setblocking(True)
s.setsockopt(SOL, socket.SO_RCVTIMEO, struct.pack("ll", -1, 0)); print(err(s.recv, 5)); n = 0
try:
    while True: n += s.send(b"x" * 100000)
except BlockingIOError: print("timed out", n > 100000)
q = array.array("i", [0]); fcntl.ioctl(s, 0x5411, q); print(q[0] > 0)
print(len(s.getsockopt(TCP, socket.TCP_INFO, 7)))
""",
    "disconnect": r"""
c, s = pair(); un = struct.pack("Hxxxxxxxxxxxxxx", 0); b = ctypes.create_string_buffer(un, 16)
print(call("connect", c.fileno(), addr(b), 16)); settle(); print(err(s.recv, 9))
l = socket.create_server(("127.0.0.1", 0)); c.connect(l.getsockname()); x, _ = l.accept()
for _ in range(5): c.sendall(b"new"); print(x.recv(9)); x.sendall(b"yes"); print(c.recv(9)); settle()
print(err(c.connect, ("127.0.0.1", 9)))
""",
    "close_blocked": r"""
for how in ("close", "dup2"):
    c, s = pair(); got = []
    fd = s.detach(); t = threading.Thread(target=lambda: got.append((os.read(fd, 20), 0))); t.start(); time.sleep(0.1)
    r, w = os.pipe()
    if how == "close": os.close(fd)
    else: os.dup2(r, fd)
    time.sleep(0.1); c.sendall(b"after"); t.join(5); print(how, got); c.settimeout(3); print(c.recv(9))
c, s = pair(); print(err(os.dup2, 999, s.fileno()), err(os.dup2, s.fileno(), 1 << 30)); c.sendall(b"still"); print(s.recv(9))
print(call("dup3", r, s.fileno(), 7), call("close_range", 3, 4000, 0x80)); c.sendall(b"here"); print(s.recv(9))
""",
}
ADOPTED = {"disconnect": 1, "urgent": 1}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_as_linux(name, fake):  # noqa: F811
    want = run(C + CALLS[name])
    f = fake(0)
    got = run(C + CALLS[name], f.env())
    counts = f.stop()
    assert got == want
    assert counts["adopted"] >= ADOPTED.get(name, 2), counts


# The next epoll_ctl() returns to the library late.
SLOW = r"""
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <sys/epoll.h>
#include <unistd.h>
_Atomic int slow;
int epoll_ctl(int ep, int op, int fd, struct epoll_event *ev)
{
    int (*next)(int, int, int, struct epoll_event *);
    int ret;
    *(void **)&next = dlsym(RTLD_NEXT, "epoll_ctl");
    ret = next(ep, op, fd, ev);
    if (slow) { slow = 0; usleep(300000); }
    return ret;
}
"""
# A worker has the event, and changes the registration, before epoll_ctl() has returned in the thread that accepted.
MEANWHILE = r"""
slow = ctypes.c_int.in_dll(ctypes.CDLL(os.environ["LD_PRELOAD"].split()[-1]), "slow"); IN = select.EPOLLIN
def turn(): os.write(fd, b"a"); c.recv(9); c.sendall(b"b"); print(wait_for(lambda: err(os.read, fd, 9)[0] == "ok"))
for how in ("modify", "remove", "again", "nothing"):
    l = socket.create_server(("127.0.0.1", 0)); c = socket.create_connection(l.getsockname()); ep = select.epoll()
    fd = call("accept4", l.fileno(), 0, 0, socket.SOCK_NONBLOCK); first = (ep.register, fd, IN)
    if how == "again": ep.register(fd, IN); first = (ep.unregister, fd)
    slow.value = 1; t = threading.Thread(target=first[0], args=first[1:]); t.start()
    print(wait_for(lambda: not slow.value)); c.sendall(b"1"); print(wait_for(lambda: err(os.read, fd, 9)[0] == "ok"))
    if how == "modify": ep.modify(fd, select.EPOLLOUT)
    if how == "remove": ep.unregister(fd)
    if how == "again": ep.register(fd, IN)
    print(how, t.is_alive()); t.join()
    for _ in range(6): turn(); settle()
    c.sendall(b"x"); settle(); print([e for _, e in ep.poll(0.5)], err(ep.register, fd, IN), [e for _, e in ep.poll(0.5)])
    os.close(fd); c.close(); l.close()
"""


def test_registration_meanwhile(fake, tmp_path):  # noqa: F811
    lib = str(tmp_path / "slow.so")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-x", "c", "-", "-o", lib], input=SLOW, text=True, check=True)
    want = run(C + MEANWHILE, {**os.environ, "LD_PRELOAD": lib})
    f = fake(0)
    env = f.env()
    got = run(C + MEANWHILE, {**env, "LD_PRELOAD": env["LD_PRELOAD"] + " " + lib})
    counts = f.stop()
    assert got == want
    assert counts["adopted"] >= 5, counts  # the clients, and what nobody has changed
