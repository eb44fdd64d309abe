# SPDX-License-Identifier: GPL-2.0-or-later
"""Small server programs that the tests run accelerated: peer.py MODE PORT [ARG].

echo PORT          echoes on any number of connections (epoll)
ticker PORT MS [ADDRESS]  sends an 8-byte counter every MS, and says on standard output when and what it receives; with
                   an address as a client
source PORT BYTES  sends a known stream on each connection and says how much send() took
fill PORT          echoes until "fill"; then sends as much of the known stream as is taken at once, says how much, and ends
late PORT          echoes until "end"; then sends FIN, waits for a line on standard input and only then reads the rest
"""
import selectors
import socket
import struct
import sys
import time

PATTERN = bytes((i * 131 + (i >> 8) * 17) & 255 for i in range(65521))


def pattern(offset, length):
    """A piece of the known stream (period 65521, prime)."""
    out = bytearray()
    while len(out) < length:
        at = (offset + len(out)) % len(PATTERN)
        out += PATTERN[at:at + length - len(out)]
    return bytes(out)


def listen(port):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", port))
    s.listen(4096)
    return s


def say(*words):
    print(*words, flush=True)


def echo(port):
    sel = selectors.DefaultSelector()
    lis = listen(port)
    lis.setblocking(False)
    sel.register(lis, selectors.EVENT_READ)
    say("ready")
    waiting = {}

    def end(s):
        sel.unregister(s)
        waiting.pop(s, None)
        s.close()

    while True:
        for key, events in sel.select():
            s = key.fileobj
            if s is lis:
                try:
                    c, _ = lis.accept()
                except BlockingIOError:
                    continue
                c.setblocking(False)
                c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sel.register(c, selectors.EVENT_READ)
                continue
            try:
                data = waiting.pop(s, b"") or s.recv(65536)
                if not data:
                    end(s)
                    continue
                try:
                    n = s.send(data)
                except BlockingIOError:
                    n = 0
                if n < len(data):
                    waiting[s] = data[n:]
                sel.modify(s, selectors.EVENT_WRITE if s in waiting else selectors.EVENT_READ)
            except BlockingIOError:
                pass
            except OSError:
                end(s)


def ticker(port, ms, address=None):
    if address:
        s = socket.create_connection((address, port))
        say("ready", s.getsockname()[1])
    else:
        lis = listen(port)
        say("ready")
        s, _ = lis.accept()
    s.setblocking(False)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sel = selectors.DefaultSelector()
    sel.register(s, selectors.EVENT_READ)
    n, out, due = 0, b"", time.monotonic()
    while True:
        try:
            if sel.select(max(0, due - time.monotonic())):
                data = s.recv(65536)
                say("R", "%.6f" % time.monotonic(), data.hex() or "eof")
                if not data:
                    return
            if time.monotonic() >= due:
                out += struct.pack("!Q", n)
                n += 1
                due = max(due + ms / 1e3, time.monotonic())
                try:
                    out = out[s.send(out):]
                except BlockingIOError:
                    pass
        except BlockingIOError:
            continue
        except OSError as e:
            say("E", "%.6f" % time.monotonic(), e.errno)
            return


def source(port, total):
    lis = listen(port)
    say("ready")
    while True:
        s, _ = lis.accept()
        s.recv(1)
        s.send(b"!")
        s.recv(1)
        sent = 0
        while sent < total:
            sent += s.send(pattern(sent, min(16384, total - sent)))
            say("W", sent)
        say("done")
        s.recv(1)
        s.close()


def echo_until(port, word):
    """The one connection that there is, echoed up to a word."""
    lis = listen(port)
    say("ready")
    s, _ = lis.accept()
    while (data := s.recv(64)) != word:
        s.sendall(data)
    return s


def fill(port):
    s = echo_until(port, b"fill")
    s.setblocking(False)
    sent, last = 0, time.monotonic()
    while time.monotonic() < last + 0.3:
        try:
            sent += s.send(pattern(sent, 16384))
            last = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
    say("took", sent)
    s.close()


def sink(port):
    """Never answers, and has its kernel put off acknowledgements."""
    lis = listen(port)
    say("ready")
    s, _ = lis.accept()
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    while s.recv(64):
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)


def late(port):
    s = echo_until(port, b"end")
    sys.stdin.readline()
    s.shutdown(socket.SHUT_WR)
    say("shut")
    sys.stdin.readline()
    got = b""
    try:
        while data := s.recv(65536):
            got += data
        say("got", len(got), got == pattern(0, len(got)))
    except OSError as e:
        say("got", len(got), e)


if __name__ == "__main__":
    mode, port = sys.argv[1], int(sys.argv[2])
    if mode == "echo":
        echo(port)
    elif mode == "ticker":
        ticker(port, float(sys.argv[3]), *sys.argv[4:])
    elif mode == "source":
        source(port, int(sys.argv[3]))
    elif mode == "fill":
        fill(port)
    elif mode == "sink":
        sink(port)
    elif mode == "late":
        late(port)
    else:
        sys.exit("peer.py: unknown mode " + mode)
