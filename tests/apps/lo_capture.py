# SPDX-License-Identifier: GPL-2.0-or-later
"""What Linux's loopback device has carried for each TCP connection within a host: tcpdump writes, this reads."""
import ipaddress
import os
import select
import signal
import struct
import subprocess


class Connection:
    """Payload bytes there and back, and exchanges, counted as the library does: each answer is one.

    It is long when it has had more than what leaves a connection with Linux by default, and ripe when, besides, both
    ends are known to have made a call since, as only in a call an end asks: each has sent something, or more has been
    sent than Linux holds between the two. Late are the bytes that are sent when it is ripe.
    """
    EXCHANGES, BYTES = 2, 65536
    HELD = 4 << 20

    def __init__(self, client, server):
        self.ends = (client, server)  # (address, port), who connected first
        self.bytes = self.late = self.exchanges = self.since = 0
        self.first = self.last = None
        self.top, self.spoken = {}, set()

    @property
    def long(self):
        return self.exchanges > self.EXCHANGES or self.bytes > self.BYTES

    @property
    def ripe(self):
        return len(self.spoken) == 2 or self.since > self.HELD

    def payload(self, source, seq, n):
        end = (seq + n) & 0xffffffff
        if source in self.top:
            n = min(n, (end - self.top[source] + (1 << 31)) % (1 << 32) - (1 << 31))
        if n <= 0:  # sent again, or a probe
            return
        self.top[source] = end
        self.late += n if self.ripe else 0
        if self.long:
            self.since += n
            self.spoken.add(source)
        self.bytes += n
        self.first = self.first or source
        if source != self.last and self.last and source != self.first:
            self.exchanges += 1
        self.last = source


def _packets(path):
    """(source, destination, flags, sequence number, bytes of payload) of each TCP segment in a pcap file."""
    with open(path, "rb") as f:
        magic = f.read(24)[:4]
        assert magic in (b"\xd4\xc3\xb2\xa1", b""), "not a pcap file of this machine"
        while len(head := f.read(16)) == 16:
            kept, length = struct.unpack("=8xII", head)
            data = f.read(kept)
            kind, ip = data[12:14], data[14:]
            if kind == b"\x08\x00" and ip[9] == 6:
                tcp, size, where = ip[(ip[0] & 15) * 4:], length - 14 - (ip[0] & 15) * 4, ip[12:20]
            elif kind == b"\x86\xdd" and ip[6] == 6:
                tcp, size, where = ip[40:], length - 54, ip[8:40]
            else:
                continue
            a, b = (ipaddress.ip_address(x) for x in (where[:len(where) // 2], where[len(where) // 2:]))
            sport, dport, seq, offset, flags = struct.unpack_from("!HHI4xBB", tcp)
            yield (str(a), sport), (str(b), dport), flags, seq, size - (offset >> 4) * 4


def connections(path):
    """All that were made while it was captured, in order."""
    made, now = [], {}
    for source, target, flags, seq, n in _packets(path):
        key = frozenset((source, target))
        if flags & 0x12 == 0x02 and (key not in now or now[key].bytes):  # a SYN
            now[key] = Connection(source, target)
            made.append(now[key])
        if n > 0 and key in now:
            now[key].payload(source, seq, n)
    return made


class Capture:
    """with Capture(host, path): what lo carries meanwhile."""

    def __init__(self, host, path):
        self.host, self.path = host, path

    def __enter__(self):
        self.p = self.host.popen(["tcpdump", "-i", "lo", "-s", "128", "-B", "65536", "--immediate-mode", "-Z", "root", "-w",
                                  self.path, "tcp"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = b""
        while b"listening on" not in said:
            assert select.select([self.p.stderr], [], [], 20)[0], "tcpdump does not start"
            more = os.read(self.p.stderr.fileno(), 4096)
            assert more, said
            said += more
        return self

    def __exit__(self, *exc):
        self.p.send_signal(signal.SIGINT)
        said = self.p.communicate(timeout=20)[1].decode()
        self.lost = sum(int(x.split()[0]) for x in said.splitlines() if "dropped by kernel" in x)
