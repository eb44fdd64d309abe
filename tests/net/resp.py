# SPDX-License-Identifier: GPL-2.0-or-later
"""The protocol of redis, as much as the tests need, over one connection."""


def encode(*words):
    words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


class Redis:
    """A connection: whole answers, nested ones too."""

    def __init__(self, sock):
        self.sock = sock
        self.file = sock.makefile("rb", 1 << 20)

    def answer(self):
        line = self.file.readline()
        assert line.endswith(b"\r\n"), "connection ended: %r" % line
        kind, rest = line[:1], line[1:-2]
        assert kind != b"-", line
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest

    def send(self, *words):
        self.sock.sendall(encode(*words))

    def call(self, *words):
        self.send(*words)
        return self.answer()

    def info(self, section):
        lines = self.call("INFO", section).decode().splitlines()
        return dict(x.split(":", 1) for x in lines if ":" in x)

    def close(self):
        self.file.close()
        self.sock.close()
