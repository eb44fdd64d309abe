# SPDX-License-Identifier: GPL-2.0-or-later
"""A TCP peer made of raw frames, at an address of the client host that its kernel does not answer for: it knows
every number of its connection and may send whatever it likes in between."""
import itertools
import json
import select
import socket
import struct
import time

from frames import ACK, FIN, PSH, RST, SYN, Wire, checksum
from lab import wait_for

MASK = 0xffffffff
_ports = itertools.count(20001)


class RawHost:
    """The address, and a packet socket on the wire."""

    def __init__(self, lab):
        self.lab = lab
        self.addr = "10.77.%d.9" % lab.n
        lab.client.add_address(self.addr, "peer0")
        lab.client.nft("table ip raw { chain c { type filter hook prerouting priority -300; ip daddr %s drop; } }"
                       % self.addr)
        self.wire = Wire(lab.client)
        link = json.loads(lab.server.run(["ip", "-j", "link", "show", "nic0"]).stdout)[0]
        self.server_mac = bytes.fromhex(link["address"].replace(":", ""))

    def close(self):
        self.wire.close()


def ip_header(src, dst, length, proto=6, ttl=64, frag=0x4000, options=b"", version=4, ihl=None, ip_sum=None):
    ihl = 5 + len(options) // 4 if ihl is None else ihl
    head = struct.pack("!BBHHHBBH4s4s", version << 4 | ihl, 0, length, 1, frag, ttl, proto, 0, socket.inet_aton(src),
                       socket.inet_aton(dst)) + options
    return head[:10] + struct.pack("!H", checksum(head) if ip_sum is None else ip_sum) + head[12:]


class RawPeer:
    """One connection to the echo server at @port."""

    def __init__(self, host, port):
        self.host, self.lab, self.dport = host, host.lab, port
        self.port = next(_ports)
        self.seq, self.ack, self.window, self.ts_recent, self.state = 0x7ffff000, 0, 0, 0, "alive"
        self.in_flight = None
        syn = struct.pack("!BBHBBBBBBIIBBB", 2, 4, 1460, 4, 2, 1, 1, 8, 10, self.now(), 0, 1, 3, 7)
        for _ in range(20):
            self.send(flags=SYN, options=syn, ack=0)
            got = [s for s in self.receive(0.2) if s.flags & SYN]
            if got:
                break
        assert got and got[0].flags & ACK, "no answer to the SYN"
        self.scale = self.option(got[0], 3) or 0
        self.seq += 1
        self.ack = (got[0].seq + 1) & MASK
        self.send()

    @staticmethod
    def now():
        return int(time.monotonic() * 1000) & MASK

    @staticmethod
    def option(seg, kind):
        o = seg.options
        while o and o[0]:
            if o[0] == 1:
                o = o[1:]
                continue
            if o[0] == kind:
                return o[2] if kind == 3 else struct.unpack_from("!I", o, 2)[0]
            o = o[o[1]:]
        return None

    # ---- frames ----

    def timestamps(self, val=None, ecr=None):
        return struct.pack("!BBBBII", 1, 1, 8, 10, (self.now() if val is None else val) & MASK,
                           self.ts_recent if ecr is None else ecr)

    def frame(self, seq=None, ack=None, flags=ACK, payload=b"", window=512, options=None, doff=None, urgent=0,
              tcp_sum=None, total=None, dmac=None, cut=None, **ip):
        options = self.timestamps() if options is None else options
        head = struct.pack("!HHIIBBHHH", self.port, self.dport, (self.seq if seq is None else seq) & MASK,
                           (self.ack if ack is None else ack) & MASK,
                           (5 + len(options) // 4 if doff is None else doff) << 4, flags & 255, window, 0, urgent)
        tcp = head + options + payload
        src, dst = self.host.addr, self.lab.addr
        pseudo = socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack("!BBH", 0, 6, len(tcp))
        tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp) if tcp_sum is None else tcp_sum) + tcp[18:]
        length = 20 + len(ip.get("ip_options", b"")) + len(tcp)
        if "ip_options" in ip:
            ip["options"] = ip.pop("ip_options")
        eth = (dmac or self.host.server_mac) + self.host.wire.mac + b"\x08\0"
        frame = eth + ip_header(src, dst, length if total is None else total, **ip) + tcp
        return frame if cut is None else frame[:cut]

    def icmp(self, kind, code, rest=0, seq=None, quote=28, bad=False):
        """An error about a segment of the server's to us."""
        tcp = struct.pack("!HHIIBBHHH", self.dport, self.port, (self.ack if seq is None else seq) & MASK, self.seq & MASK,
                          0x50, ACK, 512, 0, 0)
        quoted = (ip_header(self.lab.addr, self.host.addr, 40 + 512) + tcp)[:quote]
        body = struct.pack("!BBHI", kind, code, 0, rest) + quoted
        body = body[:2] + struct.pack("!H", checksum(body) ^ bad) + body[4:]
        return (self.host.server_mac + self.host.wire.mac + b"\x08\0" +
                ip_header(self.host.addr, self.lab.addr, 20 + len(body), 1) + body)

    def send(self, **kw):
        self.host.wire.send(self.frame(**kw))

    # ---- the conversation ----

    def receive(self, seconds):
        """Segments of this connection; returns with the first that arrive."""
        end = time.monotonic() + seconds
        while True:
            got = [s for s in self.host.wire.segments(0, self.port) if not s.outgoing and s.dport == self.port]
            for s in got:
                self.window = s.window << getattr(self, "scale", 0)
                ts = self.option(s, 8)
                if ts is not None:
                    self.ts_recent = ts
            left = end - time.monotonic()
            if got or left <= 0:
                return got
            select.select([self.host.wire.sock], [], [], left)

    def echo(self, data, pieces=None, quiet=0.0, seconds=2.0, rcv_window=512):
        """Send @data (first as @pieces: (offset, length)), and take the echo: "alive", "reset", "closed", "silent".
        Wrong bytes are an AssertionError. @rcv_window: 0 for so long as @quiet lasts."""
        start, got = self.seq, b""
        for off, length in pieces or [(0, len(data))]:
            self.send(seq=start + off, payload=data[off:off + length], flags=ACK | PSH, window=rcv_window)
        self.seq = (self.seq + len(data)) & MASK
        end, again = time.monotonic() + seconds, time.monotonic() + max(quiet, 0.15)
        while len(got) < len(data):
            for s in self.receive(0.02):
                if s.flags & RST:
                    self.state = "reset"
                    return self.state
                skip = (self.ack - s.seq) & MASK
                if s.payload and skip < len(s.payload):
                    got += s.payload[skip:]
                    self.ack = (self.ack + len(s.payload) - skip) & MASK
                    assert data.startswith(got), "wrong bytes: %r, not %r" % (got[:60], data[:60])
                if s.payload and quiet == 0:
                    self.send()
                if s.flags & FIN and s.end == (self.ack + 1) & MASK:
                    self.ack = (self.ack + 1) & MASK
                    self.state = "closed"
                    self.send()
                    return self.state
            if time.monotonic() >= again:
                quiet = 0
                again = time.monotonic() + 0.15
                self.send(seq=start, payload=data, flags=ACK | PSH)
            if time.monotonic() >= end:
                self.state = "silent"
                return self.state
        self.send()
        return "alive"

    def adopt(self):
        def fast():
            assert self.echo(b"adopt me") == "alive"
            rows = [f for f in self.lab.flows("FAST") if f["remote_port"] == self.port]
            return rows[0] if rows else None
        return wait_for(fast, 4, "adoption of the raw peer; flows: %s" % self.lab.flows())

    def close(self):
        """A reset that is believed."""
        self.send(flags=RST | ACK)
