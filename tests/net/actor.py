# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that does to its sockets what it is told: actor.py SOCKET NAME. See actors.py.

It connects to the unix socket SOCKET and says its NAME. Then each datagram is a piece of Python, evaluated (or executed)
among the functions here and the variables that earlier pieces have set; the answer is its value or its error.
"""
import errno
import fcntl
import json
import mmap
import os
import selectors
import socket
import struct
import sys
import tempfile
import termios
import threading
import time

from peer import pattern

SEED = 8191  # distance between the streams of two seeds, in the known stream
MESSAGE = 1 << 17
ME = os.path.abspath(__file__)
threads = {}


def stream(seed, at, n):
    """n bytes of a stream, from offset at."""
    return pattern(seed * SEED + at, n)


def give(s, seed, n, piece=65536, at=0):
    """Sends n bytes of a stream, from offset at on, by calls of at most a piece."""
    sent = 0
    while sent < n:
        sent += s.send(stream(seed, at + sent, min(piece, n - sent)))
    return sent


def take(s, seed, n, piece=65536, at=0):
    """Receives n bytes of a stream, or all to its end or error; returns how many, and what ended it."""
    got = 0
    while got < n:
        try:
            data = s.recv(min(piece, n - got))
        except OSError as e:
            return [got, errno.errorcode[e.errno]]
        if not data:
            return [got, "end"]
        if data != stream(seed, at + got, len(data)):
            return [got, "WRONG"]
        got += len(data)
    return [got, ""]


ALL = 1 << 60


def fill(s, seed, quiet_s=0.3, at=0):
    """As much of a stream as is taken without waiting, until nothing goes for a while; returns how much."""
    s.setblocking(False)
    sent, last = 0, time.monotonic()
    while time.monotonic() < last + quiet_s:
        try:
            sent += s.send(stream(seed, at + sent, 65536))
            last = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
    s.setblocking(True)
    return sent


def move_file(s, seed, n, at=0):
    """As much of a stream as sendfile() takes out of a file without waiting; returns how much, where the file stands, too."""
    with tempfile.TemporaryFile() as f:
        f.write(stream(seed, at, n))
        f.seek(0)
        sent = 0
        try:
            while sent < n:
                sent += os.sendfile(s.fileno(), f.fileno(), None, n - sent)
        except BlockingIOError:
            pass
        return [sent, os.lseek(f.fileno(), 0, os.SEEK_CUR)]


def move_pipe(s, seed, n, at=0):
    """As much of a stream as splice() takes out of a pipe without waiting; returns how much, without what is left in it."""
    r, w = os.pipe()
    os.write(w, stream(seed, at, n))
    sent = 0
    try:
        while sent < n:
            sent += os.splice(r, s.fileno(), n - sent, flags=os.SPLICE_F_NONBLOCK)
    except BlockingIOError:
        pass
    left = struct.unpack("i", fcntl.ioctl(r, termios.FIONREAD, b"\0" * 4))[0]
    os.close(r)
    os.close(w)
    return [sent, n - left]


def echo(s, buf=65536):
    """Sends back what comes, until its end."""
    n = 0
    while data := s.recv(buf):
        s.sendall(data)
        n += len(data)
    return n


def dialogue(s, seed, sizes):
    """Each size is sent and must come back; one thread gives while this one takes."""
    at = 0
    for n in sizes:
        t = threading.Thread(target=give, args=(s, seed, n, 65536, at))
        t.start()
        got = take(s, seed, n, 65536, at)
        t.join()
        if got != [n, ""]:
            return got
        at += n
    return [at, ""]


def alone(c, s, seed, sizes):
    """One thread has both ends, and echoes to itself without ever waiting for one end alone."""
    sel, at, kept = selectors.DefaultSelector(), 0, b""
    for x in (c, s):
        x.setblocking(False)
        sel.register(x, selectors.EVENT_READ)
    for n in sizes:
        sent = got = 0
        while got < n:
            sel.modify(c, selectors.EVENT_READ | (selectors.EVENT_WRITE if sent < n else 0))
            sel.modify(s, selectors.EVENT_WRITE if kept else selectors.EVENT_READ)
            ready = {(k.fileobj, e) for k, events in sel.select(10) for e in (1, 2) if events & e}
            if not ready:
                return [at + got, "stalled at %d sent" % sent]
            if (c, selectors.EVENT_WRITE) in ready:
                sent += c.send(stream(seed, at + sent, min(65536, n - sent)))
            if (c, selectors.EVENT_READ) in ready:
                data = c.recv(65536)
                if not data or data != stream(seed, at + got, len(data)):
                    return [at + got, "WRONG" if data else "end"]
                got += len(data)
            if (s, selectors.EVENT_WRITE) in ready:
                kept = kept[s.send(kept):]
            if (s, selectors.EVENT_READ) in ready:
                kept = s.recv(65536)
        at += n
    sel.close()
    for x in (c, s):
        x.setblocking(True)
    return [at, ""]


def source(s, seed, path, piece=16384):
    """Sends a stream for ever; what send() took so far is always in the file."""
    with open(path, "w+b") as f:
        f.truncate(8)
        told = mmap.mmap(f.fileno(), 8)
    sent = 0
    while True:
        sent += s.send(stream(seed, sent, piece))
        told[:] = struct.pack("=Q", sent)  # one copy: a reader never sees half of it


def wait_unread(s, n, seconds=5.0):
    """Until that much can be read."""
    end = time.monotonic() + seconds
    while True:
        have = struct.unpack("i", fcntl.ioctl(s, termios.FIONREAD, b"\0" * 4))[0]
        if have >= n or time.monotonic() > end:
            return have
        time.sleep(0.002)


def take_any(s, n):
    """Receives n bytes, whatever they are."""
    got = 0
    while got < n and (data := s.recv(n - got)):
        got += len(data)
    return got


def background(name, fn, *args):
    """A thread that runs the function; joined() has its result."""
    def body():
        try:
            threads[name][1] = fn(*args)
        except OSError as e:
            threads[name][1] = errno.errorcode[e.errno]
    threads[name] = [threading.Thread(target=body, daemon=True), None]
    threads[name][0].start()


def joined(name, seconds=30):
    t, _ = threads[name]
    t.join(seconds)
    return "still runs" if t.is_alive() else threads[name][1]


def pass_to(path, *socks):
    """Gives the sockets to whoever listens at the unix socket."""
    with socket.socket(socket.AF_UNIX) as u:
        u.connect(path)
        socket.send_fds(u, [b"x"], [s.fileno() for s in socks])
        u.recv(1)


def get_from(listener):
    u, _ = listener.accept()
    with u:
        fds = socket.recv_fds(u, 1, 4)[1]
        u.send(b"y")
    return [socket.socket(fileno=fd) for fd in fds]


def unix_listener(path):
    u = socket.socket(socket.AF_UNIX)
    u.bind(path)
    u.listen(1)
    return u


class Control:
    """The connection to the test."""

    def __init__(self, path, name):
        self.path = path
        self.open(name)

    def open(self, name):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(self.path)
        self.sock.send(("%s %d" % (name, os.getpid())).encode())


def fork(name):
    """The child is an actor of that name, with all variables and sockets of this one."""
    pid = os.fork()
    if not pid:
        control.sock.close()
        control.open(name)
        serve()
        os._exit(0)
    return pid


def execute(name, *socks):
    """In place of this image another one, an actor of that name; s0, s1... are the sockets there."""
    for s in socks:
        s.set_inheritable(True)
    os.execv(sys.executable, [sys.executable, ME, control.path, name, *[str(s.fileno()) for s in socks]])


def serve():
    names = globals()
    while text := control.sock.recv(MESSAGE).decode():
        try:
            try:
                value = eval(compile(text, "order", "eval"), names)
            except SyntaxError:
                value = exec(compile(text, "order", "exec"), names)
            answer = {"value": value.hex() if isinstance(value, bytes) else value}
            answer = json.dumps(answer, default=repr)
        except OSError as e:
            answer = json.dumps({"errno": e.errno, "error": repr(e)})
        except Exception as e:
            answer = json.dumps({"error": repr(e)})
        control.sock.send(answer.encode())


if __name__ == "__main__":
    control = Control(sys.argv[1], sys.argv[2])
    for i, fd in enumerate(sys.argv[3:]):
        globals()["s%d" % i] = socket.socket(fileno=int(fd))
    serve()
