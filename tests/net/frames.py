# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw frames at the client's end of the wire: see what passes, send what no socket would."""
import fcntl
import random
import select
import socket
import struct
import time

ETH_P_ALL = 3
PACKET_OUTGOING = 4
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    s = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while s >> 16:
        s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff


def tcp_frame(dmac, smac, src, dst, sport, dport, seq, ack, flags, payload=b"", window=1024, options=b""):
    tcp_len = 20 + len(options) + len(payload)
    pseudo = socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack("!BBH", 0, 6, tcp_len)
    head = struct.pack("!HHIIBBHHH", sport, dport, seq & 0xffffffff, ack & 0xffffffff,
                       (20 + len(options)) // 4 << 4, flags, window, 0, 0) + options
    head = head[:16] + struct.pack("!H", checksum(pseudo + head + payload)) + head[18:]
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + tcp_len, random.randrange(65536), 0x4000, 64, 6, 0,
                     socket.inet_aton(src), socket.inet_aton(dst))
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return dmac + smac + b"\x08\0" + ip + head + payload


class Segment:
    """A TCP segment in a captured frame; None from parse() for anything else."""

    @classmethod
    def parse(cls, frame, outgoing=False):
        if len(frame) < 54 or frame[12:14] != b"\x08\0" or frame[23] != 6:
            return None
        ihl = (frame[14] & 15) * 4
        t = 14 + ihl
        s = cls()
        s.outgoing = outgoing
        s.dmac, s.smac = frame[:6], frame[6:12]
        s.src, s.dst = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
        s.sport, s.dport, s.seq, s.ack, off, s.flags, s.window = struct.unpack_from("!HHIIBBH", frame, t)
        s.options = frame[t + 20:t + (off >> 4) * 4]
        s.payload = frame[t + (off >> 4) * 4:14 + struct.unpack_from("!H", frame, 16)[0]]
        s.end = (s.seq + len(s.payload) + bool(s.flags & SYN) + bool(s.flags & FIN)) & 0xffffffff
        return s


class Wire:
    """A packet socket on an interface of a host; sees both directions."""

    def __init__(self, host, interface="peer0"):
        self.sock = host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.sock.bind((interface, ETH_P_ALL))
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.mac = fcntl.ioctl(self.sock, 0x8927, struct.pack("16s24x", interface.encode()))[18:24]

    def frames(self, seconds=0.0):
        """(outgoing, frame) of all that passes during so many seconds, or is waiting already."""
        end = time.monotonic() + seconds
        got = []
        while True:
            if not select.select([self.sock], [], [], max(0.0, end - time.monotonic()))[0]:
                return got
            while True:
                try:
                    data, addr = self.sock.recvfrom(65536)
                except BlockingIOError:
                    break
                got.append((addr[2] == PACKET_OUTGOING, data))
            if time.monotonic() >= end:
                return got

    def segments(self, seconds=0.0, port=None):
        out = [Segment.parse(f, o) for o, f in self.frames(seconds)]
        return [s for s in out if s and (port is None or port in (s.sport, s.dport))]

    def send(self, frame):
        self.sock.send(frame)

    def close(self):
        self.sock.close()
