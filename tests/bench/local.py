# SPDX-License-Identifier: GPL-2.0-or-later
"""Both ends on one host, over 127.0.0.1: Linux against server and client under the library, with one service.

The hosts of both kinds (network namespaces) are there at once, and the two are measured in turn, in changing order. The
server programs are kpeer, redis-server, memcached and nginx with one worker, the clients load.c, redis-benchmark and wrk.

Placements, where cores are those that this program itself may use:
  free      nobody is told where to run
  apart     the client on the first core; the server and the service on the last
  together  all three on the last core
BENCH_PLACEMENTS (free,apart,together) chooses; CLIENT:SERVER:SERVICE is one more, each a core or several (0+1).

cpu_us is the busy time of the whole machine as /proc/stat counts it, at the clock's ticks; own_us what the clocks of the
processes say (server, client, service, with the softirqs that they ran), exact, and without anybody else's. The start of
the client is in the figures of redis-benchmark and wrk alone.

An idle connection's memory is what grows while the connections are opened: anonymous and shared memory of server, client
and service, their page tables, and the kernel's slabs.

BENCH_LOCAL (direct, or service: the value of `local`), BENCH_LOCAL_SERVICE (tapasd, or local-only: tapasd --local-only),
BENCH_SPIN_US ([fast] spin_us), BENCH_IDLE (10000 connections), BENCH_IDLE_SECONDS (5).
"""
import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import time

from lab import Lab, built, run_prefix
from rows import ONLY, ROUNDS, SECONDS, busy_seconds

ADDR = "127.0.0.1"
ECHO, SINK, SOURCE, REDIS, MEMCACHED, NGINX = 7000, 7001, 7002, 6379, 11211, 8080
SERVICE = os.environ.get("BENCH_LOCAL_SERVICE", "tapasd")
SPIN_US = os.environ.get("BENCH_SPIN_US", "")
HOW = os.environ.get("BENCH_LOCAL", "direct")
IDLE = int(os.environ.get("BENCH_IDLE", "10000"))
IDLE_SECONDS = float(os.environ.get("BENCH_IDLE_SECONDS", "5"))
CORES = sorted(os.sched_getaffinity(0))
SIDES = ("plain", "local")
PLACEMENTS = {  # client, server, service
    "free": (CORES, CORES, CORES),
    "apart": (CORES[:1], CORES[-1:], CORES[-1:]),
    "together": (CORES[-1:], CORES[-1:], CORES[-1:]),
}
SETTING = {"service": SERVICE, "local": HOW, "spin_us": SPIN_US or "default", "idle_seconds": IDLE_SECONDS, "placements": PLACEMENTS}

RATE, LATENCY, PROGRAM = 3.0, 1 / 0.6, 1.5  # the least ratios that are aimed at
CHEAPER = {"cpu_us": 1.0}
IDLE_KIB, IDLE_MS = 8.0, 1.0  # per connection; CPU time per second of all of them

NGINX_CONF = """user root; worker_processes 1; daemon off; pid %(dir)s/nginx.pid; error_log %(dir)s/error.log;
events { worker_connections 1024; }
http { access_log off; sendfile on; keepalive_requests 1000000000; client_body_temp_path %(dir)s/b;
proxy_temp_path %(dir)s/p; fastcgi_temp_path %(dir)s/f; uwsgi_temp_path %(dir)s/u; scgi_temp_path %(dir)s/s;
server { listen %(addr)s:%(port)d; location / { root %(dir)s; } } }
"""
WRK_LUA = """function done(s, l, r)
 local e = s.errors
 print(string.format("WRK %d %d %d %d %d", s.requests, s.duration, l:percentile(50), l:percentile(99),
  e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def chosen_placements():
    for name in os.environ.get("BENCH_PLACEMENTS", "free,apart,together").split(","):
        if name not in PLACEMENTS:
            PLACEMENTS[name] = tuple([int(c) for c in part.split("+")] for part in name.split(":"))
        yield name


def process_seconds(pid):
    """CPU time of a process and all threads it ever had, by its own clock."""
    return time.clock_gettime(~pid << 3 | 2)


def place(pid, cores):
    for task in os.listdir("/proc/%d/task" % pid):
        os.sched_setaffinity(int(task), cores)


class LocalLab(Lab):
    """One host with the servers; side "plain" or "local"."""

    def __init__(self, side):
        self.side = side
        spin = {"fast": {"spin_us": SPIN_US}} if SPIN_US else {}
        super().__init__("plain" if side == "plain" else "shared", start=False,
                         config={"service": {"local": HOW}, "adopt": {"exchanges": 2, "bytes": 65536},
                                 "shadow": {"heartbeat_ms": 10000}, **spin})
        try:
            self.server.sysctl("net.ipv4.ip_local_port_range", "12000 65000")
            self.server.sysctl("net.core.somaxconn", "4096")
            if side != "plain":
                self.service_flags = ["--local-only"] if SERVICE == "local-only" else []
                self.start_service()
        except BaseException:
            self.close()
            raise

    def serve(self, *servers):
        for argv, port in servers:
            self.discard_output(self.run_server(argv, port))

    def pids(self):
        return self.server.pids()

    def place(self, placement):
        for pid in self.pids():
            place(pid, placement[2 if self.service and pid == self.service.pid else 1])

    def lo_bytes(self):
        def body():
            with open("/proc/thread-self/net/dev") as f:
                return int(re.search(r"^\s*lo:(.*)", f.read(), re.M).group(1).split()[0])
        return self.server.call(body)

    def client_cmd(self, cores, argv):
        prefix = [] if self.side == "plain" else run_prefix()
        return ["taskset", "-c", ",".join(map(str, cores)), *prefix, *argv]


class Meter:
    """What the machine and the processes use from now on."""

    def __init__(self, lab, pids=()):
        self.pids = [*lab.pids(), *pids]
        self.start = self.now()

    def now(self):
        return busy_seconds(), sum(process_seconds(p) for p in self.pids)

    def used(self):
        return [b - a for a, b in zip(self.start, self.now())]


def figures(used, count):
    return {"cpu_us": (used[0] * 1e6 / max(1, count), False), "own_us": (used[1] * 1e6 / max(1, count), False)}


class Local:
    def __init__(self):
        self.load, self.kpeer = built("tests", "bench", "load"), built("tests", "bench", "kpeer")

    # ---- the two sides ----

    def open(self, side):
        lab = LocalLab(side)
        try:
            lab.serve(([self.kpeer, "echo", ECHO], ECHO), ([self.kpeer, "sink", SINK], SINK),
                      ([self.kpeer, "source", SOURCE], SOURCE),
                      (["redis-server", "--port", REDIS, "--bind", ADDR, "--save", "", "--appendonly", "no"], REDIS),
                      (["memcached", "-u", "root", "-l", ADDR, "-p", MEMCACHED, "-t", "2"], MEMCACHED),
                      (self.nginx(lab), NGINX))
        except BaseException:
            lab.close()
            raise
        return lab

    @staticmethod
    def nginx(lab):
        conf = os.path.join(lab.dir, "nginx.conf")
        for path, text in ((conf, NGINX_CONF % {"dir": lab.dir, "addr": ADDR, "port": NGINX}),
                           (os.path.join(lab.dir, "1k"), "x" * 1024), (os.path.join(lab.dir, "wrk.lua"), WRK_LUA)):
            with open(path, "w") as f:
                f.write(text)
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        return [shutil.which("nginx", path=path) or "nginx", "-c", conf, "-e", "stderr"]

    # ---- clients ----

    def start_load(self, lab, cores, *argv):
        p = lab.server.popen(lab.client_cmd(cores, [self.load, *argv]), env=lab.env(), stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        lab.procs.append(p)
        return p

    def end_load(self, lab, p):
        p.stdin.close()
        p.stdout.close()
        lab.procs.remove(p)
        if p.wait(20):
            raise AssertionError("load ended with status %d" % p.returncode)

    def run_load(self, lab, placement, *argv):
        """What load says, the CPU times while it measured, and the bytes over lo per unit."""
        lab.place(placement)
        lo = lab.lo_bytes()
        p = self.start_load(lab, placement[0], *argv)
        text = lab._await_text(p, "start\n", 20)
        meter = Meter(lab)
        if "}" not in text:
            text += lab._await_text(p, "}", 20 + SECONDS)
        used = meter.used()
        self.end_load(lab, p)
        j = json.loads(text.strip().splitlines()[-1])
        return j, used, (lab.lo_bytes() - lo) / max(1, j["total"])

    def run_program(self, lab, placement, argv):
        """A program to its end: what it says, and the CPU times of all of it."""
        lab.place(placement)
        meter = Meter(lab)
        with lab.server.popen(lab.client_cmd(placement[0], argv), env=lab.env(), stdout=subprocess.PIPE) as p:
            out = p.stdout.read().decode()
            _, status, r = os.wait4(p.pid, 0)
            p.returncode = os.waitstatus_to_exitcode(status)
        machine, own = meter.used()
        if p.returncode:
            raise AssertionError("%s: exit status %d: %s" % (argv[0], p.returncode, out[-200:]))
        return out, (machine, own + r.ru_utime + r.ru_stime)

    # ---- what is measured ----

    def ask(self, lab, placement, port, conns, request, answer):
        j, used, lo = self.run_load(lab, placement, "ask", ADDR, port, conns, SECONDS, request, answer)
        return {"req/s": (j["rate"], True), "p50 us": (j["p50_us"], False), "p99 us": (j["p99_us"], False),
                **figures(used, j["done"]), "_lo": lo}

    def rpc(self, lab, placement, conns):
        got = self.ask(lab, placement, ECHO, conns, "r" * 64, "r" * 64)
        if conns == 1:  # its first figure is the one that counts
            got = {"p50 us": got.pop("p50 us"), **got}
        return got

    def memcached(self, lab, placement, test):
        value = "v" * 100
        put, get = "set key 0 0 100\r\n%s\r\n" % value, "get key\r\n"
        if test == "set":
            return self.ask(lab, placement, MEMCACHED, 50, put, "STORED\r\n")
        self.run_load(lab, placement, "ask", ADDR, MEMCACHED, 1, 0.001, put, "STORED\r\n")
        return self.ask(lab, placement, MEMCACHED, 50, get, "VALUE key 0 100\r\n%s\r\nEND\r\n" % value)

    def bulk(self, lab, placement, how):
        j, used, lo = self.run_load(lab, placement, how, ADDR, SINK if how == "push" else SOURCE, SECONDS)
        return {"MB/s": (j["rate"] / 1e6, True), **figures(used, j["done"] / 1e6), "_lo": lo}

    def redis(self, lab, placement, test, pipeline):
        n = int(80000 * SECONDS * (1 if pipeline == 1 else 8))
        lo = lab.lo_bytes()
        out, used = self.run_program(lab, placement, ["redis-benchmark", "-h", ADDR, "-p", REDIS, "-t", test, "-n", n,
                                                      "-c", 50, "-P", pipeline, "--csv"])
        row = list(csv.reader(io.StringIO(out)))[-1]
        return {"req/s": (float(row[1]), True), "p50 us": (float(row[4]) * 1e3, False),
                "p99 us": (float(row[6]) * 1e3, False), **figures(used, n), "_lo": (lab.lo_bytes() - lo) / n}

    def wrk(self, lab, placement):
        lo = lab.lo_bytes()
        out, used = self.run_program(lab, placement, ["wrk", "-t", 1, "-c", 64, "-d", "%ds" % max(1, round(SECONDS)),
                                                      "-s", os.path.join(lab.dir, "wrk.lua"),
                                                      "http://%s:%d/1k" % (ADDR, NGINX)])
        n, duration, p50, p99, errors = map(int, re.search(r"^WRK (.*)", out, re.M).group(1).split())
        if errors:
            raise AssertionError("wrk: %d errors" % errors)
        return {"req/s": (n * 1e6 / duration, True), "p50 us": (p50, False), "p99 us": (p99, False),
                **figures(used, n), "_lo": (lab.lo_bytes() - lo) / n}

    def jobs(self):
        for place_name in chosen_placements():
            p = PLACEMENTS[place_name]

            def job(name, targets, fn, *args, p=p, place_name=place_name):
                return "local %s, %s" % (name, place_name), {**CHEAPER, **targets}, lambda lab: fn(lab, p, *args)

            yield job("RPC 64 B, 1 connection", {"p50 us": LATENCY}, self.rpc, 1)
            yield job("RPC 64 B, 64 connections", {"req/s": RATE}, self.rpc, 64)
            for how in ("push", "pull"):
                yield job("bulk, 1 connection, %s" % how, {"MB/s": PROGRAM}, self.bulk, how)
            for test in ("set", "get"):
                for n in (1, 16):
                    yield job("redis %s, pipeline %d" % (test.upper(), n), {"req/s": PROGRAM}, self.redis, test, n)
            for test in ("set", "get"):
                yield job("memcached %s" % test, {"req/s": PROGRAM}, self.memcached, test)
            yield job("nginx, 1 KB, wrk", {"req/s": PROGRAM}, self.wrk)

    # ---- idle connections ----

    def idle(self, lab):
        """Opens connections, has each adopted, and looks what they use."""
        p = self.start_load(lab, CORES, "hold", ADDR, ECHO)

        def tell(line):
            p.stdin.write(line.encode() + b"\n")
            p.stdin.flush()
            lab._await_text(p, "ok\n", 60)

        tell("open 1")  # so that what a process has once is not counted
        tell("ask 8")
        before = Memory(lab)
        tell("open %d" % IDLE)
        fast = self.adopted(lab, lambda: tell("ask 16"))
        grown = Memory(lab).since(before, IDLE)
        meter, start = Meter(lab), time.monotonic()
        time.sleep(IDLE_SECONDS)
        used, seconds = meter.used(), time.monotonic() - start
        tell("ask 1")
        self.end_load(lab, p)
        return {"KiB each": (sum(grown.values()), False), "cpu ms/s": (used[1] * 1e3 / seconds, False),
                "_KiB": grown, "_machine_ms_s": used[0] * 1e3 / seconds, "_fast": fast}

    @staticmethod
    def adopted(lab, exchange):
        """Exchanges until no more connections are adopted (not all are at the first attempt); how many ends are FAST."""
        fast = same = 0
        for _ in range(12):
            exchange()
            time.sleep(0.5)
            now = 0 if lab.side == "plain" else lab.status()["fast"]
            same = same + 1 if now == fast else 0
            fast = now
            if fast >= 2 * IDLE or same == 3:
                break
        return fast

    def open_idle(self, side):
        """Hosts of their own each time: memory that was used once is not given back."""
        lab = LocalLab(side)
        try:
            lab.serve(([self.kpeer, "echo", ECHO], ECHO))
        except BaseException:
            lab.close()
            raise
        return lab


def drop_unused():
    """Inodes and dentries in nobody's use: whoever looks into /proc/PID/fd leaves two for each descriptor."""
    with contextlib.suppress(OSError):
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("2")


class Memory:
    """KiB, by kind."""

    def __init__(self, lab):
        drop_unused()
        self.kib = {"anonymous": 0, "shared": 0, "page tables": 0}
        for pid in lab.pids():
            with open("/proc/%d/smaps_rollup" % pid) as f, open("/proc/%d/status" % pid) as g:
                text = f.read() + g.read()
            for kind, key in (("anonymous", "Pss_Anon"), ("shared", "Pss_Shmem"), ("page tables", "VmPTE")):
                self.kib[kind] += int(re.search(r"^%s:\s+(\d+)" % key, text, re.M).group(1))
        with open("/proc/meminfo") as f:
            self.kib["slabs"] = int(re.search(r"^Slab:\s+(\d+)", f.read(), re.M).group(1))

    def since(self, before, count):
        return {k: round((v - before.kib[k]) / count, 3) for k, v in self.kib.items()}


def run(rows):
    """All rows of this file whose names are wanted, into rows."""
    bench = Local()
    jobs = [j for j in bench.jobs() if ONLY in j[0]]
    with contextlib.ExitStack() as stack:
        labs = {}
        for side in SIDES if jobs else ():
            labs[side] = bench.open(side)
            stack.callback(labs[side].close)
        for name, targets, fn in jobs:
            for n in range(ROUNDS):
                for side in SIDES if n % 2 == 0 else SIDES[::-1]:
                    rows.measure(n, ROUNDS, side, name, fn, labs[side], targets)
    run_idle(rows, bench)


def run_idle(rows, bench):
    name = "local, %d idle connections" % IDLE
    targets = {"KiB each": ("most", IDLE_KIB), "cpu ms/s": ("most", IDLE_MS)}
    for n in range(min(2, ROUNDS) if ONLY in name else 0):
        for side in SIDES if n % 2 == 0 else SIDES[::-1]:
            lab = bench.open_idle(side)
            try:
                rows.measure(n, min(2, ROUNDS), side, name, bench.idle, lab, targets)
            finally:
                lab.close()
