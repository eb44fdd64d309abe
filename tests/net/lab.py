# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hosts in network namespaces of their own, and the service on one of them.

A Lab has a server host and a client host joined by a veth pair (nic0 at the server, peer0 at
the client). The service, if wanted, runs on the server host with a configuration, a control
socket and a log in a temporary directory. Nothing outside the namespaces is touched, and
everything started here ends with the Lab, by process id; children also die with their parent.
"""
import ctypes
import itertools
import json
import os
import platform
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.environ.get("TAPAS_BUILD", os.path.join(ROOT, "build"))
PLAIN = os.environ.get("TAPAS_PLAIN", "") not in ("", "0")
# the sanitizer's library, if the interposition library is built with one: it must come first
ASAN_LIBRARY = os.environ.get("TAPAS_ASAN_LIBRARY", "")
FULL = os.environ.get("TAPAS_FULL", "") not in ("", "0")
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
READY_S = 20.0

from frames import checksum

libc = ctypes.CDLL(None, use_errno=True)
_counter = itertools.count()


def scale(full, quick):
    """The figure for TAPAS_FULL=1, or the smaller one of every day."""
    return full if FULL else quick


def built(*path):
    """Path of a program that `make all tools` has built."""
    out = os.path.join(BUILD, *path)
    if not os.path.exists(out):
        raise AssertionError("%s missing: run make all tools first" % out)
    return out


def tool(name):
    """Path of a helper program of the network tests."""
    return built("tests", "net", name)


def wait_for(check, timeout=5.0, what="condition", step=0.02):
    """The first true value of check(), or AssertionError after timeout seconds."""
    end = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() >= end:
            raise AssertionError("not within %.1f s: %s (last: %r)" % (timeout, what, value))
        time.sleep(step)


def _die_with_parent():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def cpu_seconds(pid):
    """User and system time of a process, all its threads."""
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stop_process(proc, timeout=5.0, sig=signal.SIGTERM):
    """End a child of ours; SIGKILL if it does not listen. Returns its exit status."""
    if proc.poll() is None:
        try:
            proc.send_signal(signal.SIGCONT)
            proc.send_signal(sig)
            proc.wait(timeout)
        except subprocess.TimeoutExpired:
            proc.kill()
            proc.wait(timeout)
    for stream in (proc.stdin, proc.stdout, proc.stderr):
        if stream:
            try:
                stream.close()
            except OSError:
                pass
    return proc.returncode


def remove_orphans():
    """Namespaces and directories of test runs that were killed and could not clean up."""
    for entry in os.scandir("/run/netns") if os.path.isdir("/run/netns") else []:
        m = re.fullmatch(r"tst(\d+)n\d+[a-z]", entry.name)
        if m and not os.path.exists("/proc/" + m.group(1)):
            host = Host.__new__(Host)
            host.name = entry.name
            host.close()
    for entry in os.scandir(tempfile.gettempdir()):
        m = re.fullmatch(r"tapas-test-(\d+)-\w+", entry.name)
        if m and not os.path.exists("/proc/" + m.group(1)):
            shutil.rmtree(entry.path, ignore_errors=True)


class Host:
    """One network namespace."""

    def __init__(self, name):
        self.name = name
        subprocess.run(["ip", "netns", "add", name], check=True)
        self.run(["ip", "link", "set", "lo", "up"])
        self.sysctl("net.ipv4.tcp_congestion_control", "reno")  # cubic may not be set here: see add_address()

    def cmd(self, argv):
        return ["ip", "netns", "exec", self.name, *map(str, argv)]

    def run(self, argv, check=True, timeout=60, env=None, **kw):
        """Run to its end; returns CompletedProcess with text stdout and stderr."""
        kw.setdefault("stdout", subprocess.PIPE)
        kw.setdefault("stderr", subprocess.PIPE)
        if "input" not in kw:
            kw.setdefault("stdin", subprocess.DEVNULL)
        kw.setdefault("text", True)
        r = subprocess.run(self.cmd(argv), timeout=timeout, env=env, preexec_fn=_die_with_parent, **kw)
        if check and r.returncode:
            raise AssertionError("%s: exit status %d\n%s\n%s" % (" ".join(map(str, argv)), r.returncode, r.stdout,
                                                                 r.stderr))
        return r

    def popen(self, argv, **kw):
        kw.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(self.cmd(argv), preexec_fn=_die_with_parent, **kw)

    def sysctl(self, key, value):
        self.run(["sysctl", "-qw", "%s=%s" % (key, value)])

    def add_address(self, address, dev):
        """An address whose connections use cubic: a namespace may choose that only per route."""
        net = address.rsplit(".", 1)[0] + ".0/24"
        self.run(["ip", "addr", "add", address + "/24", "dev", dev])
        self.use_cubic(net, dev)

    def use_cubic(self, net, dev):
        self.run(["ip", "route", "change", net, "dev", dev, "proto", "kernel", "scope", "link", "congctl", "cubic"],
                 check=False)

    def call(self, fn, *args):
        """fn(*args) by a thread inside the namespace: sockets made there stay there."""
        box = {}

        def body():
            fd = os.open("/run/netns/" + self.name, os.O_RDONLY)
            try:
                if libc.setns(fd, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                box["value"] = fn(*args)
            except BaseException as e:  # handed to the caller below
                box["error"] = e
            finally:
                os.close(fd)

        t = threading.Thread(target=body)
        t.start()
        t.join()
        if "error" in box:
            raise box["error"]
        return box["value"]

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM, proto=0):
        return self.call(socket.socket, family, kind, proto)

    def connect(self, addr, source=None, timeout=5.0):
        s = self.socket()
        s.settimeout(timeout)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if source:
                s.bind(source)
            s.connect(addr)
        except BaseException:
            s.close()
            raise
        return s

    def nft(self, text):
        """Apply nft commands, as one transaction; blocks may be written on one line."""
        self.run(["nft", "-f", "-"], input=re.sub(r"\} (?=\}|counter|chain)", "}\n", text))

    def sockets(self, query):
        """ss -tinH: a list of dicts (state, local, peer, and the counters named x:N)."""
        rows = []
        out = self.run(["ss", "-tinHO", *query]).stdout
        for line in out.splitlines():
            f = line.split()
            if len(f) < 5:
                continue
            row = {"state": f[0], "recv_q": int(f[1]), "send_q": int(f[2]), "local": f[3], "peer": f[4]}
            row.update({k: int(v) for k, v in re.findall(r"(\w+):(\d+)(?=\s|$)", line)})
            rows.append(row)
        return rows

    def tcp_payload(self):
        """Payload bytes that Linux's TCP of this host sent and received so far (IP octets less the usual
        headers). Off by a few per cent of the headers, so good for shares, not for equality."""
        out = self.run(["cat", "/proc/net/netstat", "/proc/net/snmp"]).stdout.splitlines()
        v = {}
        for head, data in zip(out[::2], out[1::2]):
            proto = head.split(":")[0]
            for k, x in zip(head.split()[1:], data.split()[1:]):
                v[proto + k] = int(x)
        return v["IpExtInOctets"] + v["IpExtOutOctets"] - 52 * (v["TcpInSegs"] + v["TcpOutSegs"])

    def interfaces(self):
        return {i["ifname"] for i in json.loads(self.run(["ip", "-j", "link"]).stdout)}

    def pids(self):
        r = subprocess.run(["ip", "netns", "pids", self.name], stdout=subprocess.PIPE, text=True)
        return [int(p) for p in r.stdout.split()]

    def close(self):
        for sig in (signal.SIGCONT, signal.SIGKILL):
            for pid in self.pids():
                if pid != os.getpid():
                    try:
                        os.kill(pid, sig)
                    except ProcessLookupError:
                        pass
        end = time.monotonic() + 3
        while [p for p in self.pids() if p != os.getpid()] and time.monotonic() < end:
            time.sleep(0.02)
        subprocess.run(["ip", "netns", "del", self.name], stderr=subprocess.DEVNULL)


def run_prefix(where=BUILD):
    """What makes a command accelerated: `tapas run`, or, with a sanitizer, what it does."""
    if not ASAN_LIBRARY:
        return [os.path.join(where, "tapas"), "run"]
    return ["env", "LD_PRELOAD=%s:%s" % (ASAN_LIBRARY, os.path.join(where, "libtapas-preload.so"))]


class Lab:
    """mode: "plain" (no service), "shared", "exclusive", or "local-only" (a service without an interface).

    With TAPAS_PLAIN=1 in the environment every lab is plain and what only the service can show is not asked:
    the rest of a test then says what Linux alone does, which is what it must be with the service too.
    """

    def __init__(self, mode="shared", middlebox=None, config=None, start=True, nft=None):
        self.id = next(_counter)
        self.mode = mode = "plain" if PLAIN else mode
        self.plain = mode == "plain"
        self.n = self.id % 250 + 1
        self.addr = "10.77.%d.1" % self.n
        self.sources = ["10.77.%d.2" % self.n, "10.77.%d.3" % self.n]
        self.config = dict(config or {})
        self.service_flags = ["-d", "--local-only"] if mode == "local-only" else ["-d"]
        self.procs = []
        self.hosts = []
        self.service = None
        self.dir = tempfile.mkdtemp(prefix="tapas-test-%d-" % os.getpid())
        os.chmod(self.dir, 0o755)
        self.socket_path = os.path.join(self.dir, "tapasd.sock")
        self.log_path = os.path.join(self.dir, "tapasd.log")
        try:
            self._network(middlebox)
            if nft:
                self.server.nft(nft)
            if mode != "plain" and start:
                self.start_service()
        except BaseException:
            self.close()
            raise

    # ---- network ----

    def _host(self, suffix):
        h = Host("tst%dn%d%s" % (os.getpid(), self.id, suffix))
        self.hosts.append(h)
        return h

    def _veth(self, a, ifa, b, ifb):
        subprocess.run(["ip", "link", "add", ifa, "netns", a.name, "type", "veth", "peer", "name", ifb, "netns",
                        b.name], check=True)
        for h, i in ((a, ifa), (b, ifb)):
            # a peer that leaves checksums to the wire, or sends super-frames, is not a network
            h.run(["ethtool", "-K", i, "tx", "off", "tso", "off", "gso", "off", "gro", "off"])
            h.run(["tc", "qdisc", "replace", "dev", i, "root", "pfifo", "limit", "10000"])
            h.sysctl("net.ipv6.conf.%s.disable_ipv6" % i, 1)
            h.run(["ip", "link", "set", i, "up"])

    def _network(self, middlebox):
        self.server = self._host("s")
        self.client = self._host("c")
        if middlebox:
            self.middle = self._host("m")
            self._veth(self.server, "nic0", self.middle, "mb0")
            self._veth(self.middle, "mb1", self.client, "peer0")
            self.spawn(self.middle, [tool("middlebox"), "mb0", "mb1", *map(str, middlebox)],
                       ready="ready")
        else:
            self._veth(self.server, "nic0", self.client, "peer0")
        if self.mode != "exclusive":
            self.server.add_address(self.addr, "nic0")
        for a in self.sources:
            self.client.add_address(a, "peer0")

    @property
    def interface(self):
        """The interface that Linux's rules see."""
        return "tapas0" if self.mode == "exclusive" else "nic0"

    # ---- service ----

    def write_config(self, extra=None):
        sections = {
            "service": {"interface": "nic0", "mode": self.mode, "socket": self.socket_path, "group": ""},
            "adopt": {"exchanges": 1, "bytes": 1},
            "shadow": {"heartbeat_ms": 1000, "verdict_ms": 30},
        }
        if self.mode == "local-only":
            del sections["service"]["interface"], sections["service"]["mode"]
        if self.mode == "exclusive":
            sections["exclusive"] = {"tap": "tapas0", "address": self.addr + "/24"}
        for add in (self.config, extra or {}):
            for name, keys in add.items():
                sections.setdefault(name, {}).update(keys)
        path = os.path.join(self.dir, "tapas.conf")
        with open(path, "w") as f:
            for name, keys in sections.items():
                f.write("[%s]\n" % name)
                for k, v in keys.items():
                    if v != "":
                        f.write("%s = %s\n" % (k, v))
        return path

    def env(self, **more):
        return dict(os.environ, TAPAS_SOCKET=self.socket_path, **more)

    def start_service(self, extra=None, wrap=()):
        path = self.write_config(extra)
        with open(self.log_path, "a") as log:
            self.service = self.server.popen([*wrap, built("tapasd"), *self.service_flags, "-c", path],
                                             stdout=log, stderr=log)

        def ready():
            if self.service.poll() is not None:
                raise AssertionError("tapasd ended with status %d:\n%s" % (self.service.returncode, self.log()))
            try:
                return self.tapas("status", "--json")
            except (AssertionError, ValueError):
                return None

        try:
            wait_for(ready, READY_S, "tapasd ready; its log:\n" + self.log())
        except AssertionError as e:
            raise AssertionError("%s\n%s" % (e, self.log())) from None
        if self.mode == "exclusive":
            self.ping()
        return self.service

    def stop_service(self, sig=signal.SIGTERM):
        rc = stop_process(self.service, 15.0, sig)
        self.service = None
        return rc

    def log(self):
        try:
            with open(self.log_path, errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def tapas(self, *argv, check=True):
        """`tapas ...` on the server host; JSON if --json was asked for, else text."""
        r = self.server.run([os.path.join(BUILD, "tapas"), *argv], env=self.env(), check=check)
        return json.loads(r.stdout) if "--json" in argv else r.stdout

    def counters(self):
        return {c["name"]: c["value"] for c in self.tapas("stats", "--json")["counters"]}

    def status(self):
        return self.tapas("status", "--json")["flows"]

    def flows(self, state=None, port=None):
        rows = self.tapas("flows", "--json")["flows"]
        return [f for f in rows if (state is None or f["state"] == state) and
                (port is None or port in (f["local_port"], f["remote_port"]))]

    def ping(self, source=None, size=56, timeout=1.0, tries=3):
        """An ICMP echo from the client to the server, answered with the same bytes; returns its time in seconds."""
        s = self.client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        try:
            if source:
                s.bind((source, 0))
            for n in range(tries):
                body = os.urandom(size)
                head = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xffff, n)
                head = head[:2] + struct.pack("!H", checksum(head + body)) + head[4:]
                start = time.monotonic()
                s.sendto(head + body, (self.addr, 0))
                while select.select([s], [], [], max(0.0, start + timeout - time.monotonic()))[0]:
                    data = s.recv(65536)
                    if data[20] == 0 and data[24:] == head[4:] + body:
                        return time.monotonic() - start
        finally:
            s.close()
        raise AssertionError("no answer to %d pings of %d bytes" % (tries, size))

    # ---- programs ----

    def spawn(self, host, argv, env=None, ready=None, accelerated=False, timeout=10.0, stdin=subprocess.DEVNULL):
        """Start a program; with ready, wait until its standard output has that text."""
        argv = list(map(str, argv))
        if accelerated:
            argv = [*run_prefix(), *argv]
        p = host.popen(argv, env=env or self.env(), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.procs.append(p)
        if ready:
            p.head = self._await_text(p, ready, timeout)
        return p

    @staticmethod
    def _await_text(p, text, timeout):
        got = b""
        end = time.monotonic() + timeout
        while text.encode() not in got or not got.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([p.stdout], [], [], left)[0]:
                raise AssertionError("no %r from %s within %.1f s: %r" % (text, p.args, timeout, got))
            more = os.read(p.stdout.fileno(), 65536)
            if not more:
                raise AssertionError("%s ended: %r (status %r)" % (p.args, got, p.wait()))
            got += more
        return got.decode(errors="replace")

    @staticmethod
    def discard_output(p):
        """A program that talks a lot must not block on its pipe; its children may hold it after its end."""
        fd = os.dup(p.stdout.fileno())

        def body():
            while os.read(fd, 65536):
                pass
            os.close(fd)
        threading.Thread(target=body, daemon=True).start()

    def run_server(self, argv, port=None, accelerated=None, **kw):
        """A server program on the server host, accelerated unless this is a plain lab; waits for the port."""
        acc = self.mode != "plain" if accelerated is None else accelerated
        p = self.spawn(self.server, argv, accelerated=acc, **kw)
        if port:
            self.wait_port(port, p)
        return p

    def wait_port(self, port, p=None, timeout=10.0):
        def listening():
            if p is not None and p.poll() is not None:
                raise AssertionError("%s ended: %s" % (p.args, p.stdout.read().decode(errors="replace")))
            return self.server.run(["ss", "-tlnH", "sport = :%d" % port]).stdout.strip()
        wait_for(listening, timeout, "port %d listening" % port)

    def run_client(self, argv, timeout=120, check=True, **kw):
        return self.client.run(argv, timeout=timeout, check=check, **kw)

    def run_accelerated(self, argv, timeout=120, check=True, **kw):
        """A program on the service's host, accelerated (unless the lab is plain), to its end."""
        if self.mode != "plain":
            argv = [*run_prefix(), *argv]
        return self.server.run(argv, env=self.env(), timeout=timeout, check=check, **kw)

    def connect(self, port, source=None, timeout=5.0):
        return self.client.connect((self.addr, port), (source, 0) if source else None, timeout)

    def adopt(self, sock, exchange=None, timeout=3.0):
        """Exchange bytes with the echo server at the other end until the connection is FAST; returns its flow."""
        local = sock.getsockname()
        exchange = exchange or echo_once
        if self.plain:
            return exchange(sock)

        def fast():
            exchange(sock)
            rows = [f for f in self.flows("FAST") if f["remote_port"] == local[1] and f["remote_addr"] == local[0]]
            return rows[0] if rows else None

        return wait_for(fast, timeout, "adoption of port %d; flows: %s" % (local[1], self.flows()))

    # ---- proofs ----

    def shadows(self, port):
        """Linux's view of the connections of a local port of the server host."""
        return self.server.sockets(["state", "connected", "sport = :%d" % port])

    def picture(self):
        """What the service and Linux say at this moment, for the report of a failed test."""
        parts = []
        if self.service and self.service.poll() is None:
            for what in (["flows"], ["stats"]):
                r = self.server.run([os.path.join(BUILD, "tapas"), *what], env=self.env(), check=False, timeout=10)
                lines = [x for x in r.stdout.splitlines() if not x.startswith("TIME_WAIT")]
                parts.append("---- tapas %s ----\n%s" % (what[0], "\n".join(lines[:60])))
        for h in self.hosts[:2]:
            r = h.run(["ss", "-tinH", "state", "established"], check=False, timeout=10)
            parts.append("---- ss on a host ----\n" + "\n".join(r.stdout.splitlines()[:60]))
        return "\n".join(parts)

    def close(self):
        for p in reversed(self.procs):
            try:
                stop_process(p, 2.0, signal.SIGKILL)
            except (OSError, subprocess.SubprocessError):
                pass
        if self.service:
            try:
                self.stop_service()
            except (OSError, subprocess.SubprocessError):
                pass
        for h in self.hosts:
            h.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        try:
            if exc[0] is not None and self.mode != "plain":
                print("---- tapasd's log (end) ----\n" + self.log()[-4000:])
        finally:
            self.close()


def tcx_programs(host, interface):
    """Number of programs attached by tcx to an interface: (ingress, egress)."""
    number = {"x86_64": 321, "aarch64": 280}[platform.machine()]

    def query():
        index, counts = socket.if_nametoindex(interface), []
        for attach_type in (46, 47):  # BPF_TCX_INGRESS, BPF_TCX_EGRESS
            ids = (ctypes.c_uint32 * 16)()
            attr = bytearray(struct.pack("=IIIIQI", index, attach_type, 0, 0, ctypes.addressof(ids), 16).ljust(128, b"\0"))
            buf = (ctypes.c_char * 128).from_buffer(attr)
            rc = libc.syscall(number, 16, ctypes.byref(buf), 64)  # BPF_PROG_QUERY
            counts.append(struct.unpack_from("=I", attr, 24)[0] if rc == 0 else 0)
        return tuple(counts)

    return host.call(query)


def echo_once(sock, data=b"x" * 64):
    sock.sendall(data)
    got = b""
    while len(got) < len(data):
        more = sock.recv(len(data) - len(got))
        if not more:
            raise AssertionError("closed after %d bytes" % len(got))
        got += more
    assert got == data


class FastShare:
    """Counters before and after a piece of work: how much of the client host's TCP payload went by the fast path."""

    def __init__(self, lab):
        self.lab = lab
        if lab.plain:
            return
        self.before = lab.counters()
        self.payload_before = lab.client.tcp_payload()

    def measure(self):
        after = self.lab.counters()
        self.delta = {k: v - self.before[k] for k, v in after.items()}
        self.fast = self.delta["rx_bytes"] + self.delta["tx_bytes"]
        self.payload = self.lab.client.tcp_payload() - self.payload_before
        return self.fast / max(1, self.payload)

    def assert_fast(self, share=0.95, connections=1, payload=None):
        """At least so many connections adopted, and that share of the bytes carried by the fast path."""
        if self.lab.plain:
            return 0.0
        got = self.measure()
        total = payload if payload is not None else self.payload
        assert self.delta["adopted"] >= connections, "adopted %d of %d: %s" % (
            self.delta["adopted"], connections, {k: v for k, v in self.delta.items() if v})
        assert self.fast >= share * total, "%d of %d payload bytes by the fast path (%.1f %%): %s" % (
            self.fast, total, 100.0 * self.fast / max(1, total), {k: v for k, v in self.delta.items() if v})
        return got
