#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux and tapas in turn, on the same two hosts (network namespaces joined by a veth pair), over several rounds.

Connections of one exchange, where a few in a hundred matter, are measured on hosts of all kinds that are there at once,
so that the slices that are compared follow each other within seconds, more of them, in changing order.

The server program is the same in both cases: tests/bench/kpeer.c or redis-server, plain, or under `tapas run` with
the service beside it. The client is tests/bench/xload, which speaks TCP itself over AF_XDP, so that the server is
what is measured; redis is loaded by redis-benchmark over kernel TCP.

Figures are medians over the rounds. `cpu_us` is the busy time of the whole machine (user, system, interrupts and
softirqs of all cores, as /proc/stat counts them) less xload's empty polls, per request. A ratio above 1 is in favour
of tapas for every column; a row is marked slower if its first figure's ratio is below 1.

bench.py [network | local]: all of it, or the rows between the two hosts, or those within one (local.py).
BENCH_ROUNDS (3), BENCH_SECONDS (1) per measurement, BENCH_ONLY (a part of rows' names), BENCH_OUT (build/bench.json).
"""
import contextlib
import csv
import io
import json
import os
import platform
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "net"))
from lab import BUILD, Lab, built, wait_for  # noqa: E402

import local  # noqa: E402
from rows import ONLY, ROUNDS, SECONDS, Rows, busy_seconds, print_table  # noqa: E402

SLICES = 5  # in each round, of what is measured together
OUT = os.environ.get("BENCH_OUT", os.path.join(BUILD, "bench.json"))
ECHO, SINK, SOURCE, REDIS = 7000, 7001, 7002, 6379
CLIENT_CPU, SERVER_CPU = 0, min(1, os.cpu_count() - 1)
PLACEMENT = {
    "cores": os.cpu_count(),
    "client": "xload or redis-benchmark on core %d; xload polls its own NAPI there" % CLIENT_CPU,
    "linux": "server program on core %d, RPS of its interface on core %d: on veth the receive work would otherwise "
             "run on the sender's core and not be the server's" % (SERVER_CPU, SERVER_CPU),
    "tapas": "tapasd (all threads) and the server program on core %d; its XDP program runs, as always on veth, in the "
             "softirq of the sending core; RPS as for Linux, for what is not accelerated" % SERVER_CPU,
}


class Bench(Rows):
    def __init__(self):
        super().__init__()
        self.xload, self.kpeer = built("tests", "bench", "xload"), built("tests", "bench", "kpeer")

    # ---- the two sides ----

    def open(self, mode):
        """The hosts, the service if any, and the servers."""
        lab = Lab(mode, config={"adopt": {"exchanges": 2, "bytes": 65536}, "shadow": {"heartbeat_ms": 10000},
                                "nic": {"detach_ms": 1000}},
                  start=False)
        try:
            mask = "%x" % (1 << SERVER_CPU)
            lab.server.run(["sh", "-c", "echo %s > /sys/class/net/nic0/queues/rx-0/rps_cpus" % mask])
            if mode != "plain":
                lab.service_flags = []
                lab.start_service(wrap=["taskset", "-c", SERVER_CPU])
            servers = [([self.kpeer, "echo", ECHO], ECHO), ([self.kpeer, "sink", SINK], SINK),
                       ([self.kpeer, "source", SOURCE], SOURCE)]
            if mode != "exclusive":
                servers.append((["redis-server", "--port", REDIS, "--bind", lab.addr, "--save", "", "--appendonly",
                                 "no", "--protected-mode", "no"], REDIS))
            for argv, port in servers:
                p = lab.run_server(argv, port)
                subprocess.run(["taskset", "-apc", str(SERVER_CPU), str(p.pid)], check=True, stdout=subprocess.DEVNULL)
                lab.discard_output(p)
        except BaseException:
            lab.close()
            raise
        return lab

    def run_xload(self, lab, port, *argv):
        base = ".".join(lab.addr.split(".")[:3])
        cmd = [self.xload, "-i", "peer0", "-s", "%s.100-%s.107" % (base, base), "-d", lab.addr, "-p", port, "-C",
               CLIENT_CPU, "-t", SECONDS, "-W", 0.3, "--helper", "%s:%d" % (lab.addr, ECHO), "--json", *argv]
        r = lab.client.run(cmd, check=False, timeout=60 + SECONDS)
        j = json.loads(r.stdout.strip().splitlines()[-1])
        if r.returncode:
            raise AssertionError("xload failed: %s" % {k: j[k] for k in ("failed", "mismatched", "resets", "timeouts")})
        j["busy_s"] = sum(100 - c["idle"] for c in j["cpu"]) / 100 * j["seconds"]
        j["empty_s"] = (j["client_cpu_pct"] - j["client_useful_pct"]) / 100 * j["seconds"]
        return j

    # ---- what is measured: each returns {column: (value, higher is better)} ----

    def rpc(self, lab, conns):
        j = self.run_xload(lab, ECHO, "-M", "echo", "-c", conns, "-r", 64)
        return {"req/s": (j["rps"], True), "p50 us": (j["latency"]["p50"], False), "p99 us": (j["latency"]["p99"], False),
                "cpu_us": ((j["busy_s"] - j["empty_s"]) * 1e6 / max(1, j["requests"]), False)}

    def short(self, lab, conns):
        if lab.mode == "shared":  # the usual state of a host with short connections: none is adopted, nothing is attached
            wait_for(lambda: not lab.tapas("status", "--json")["egress"], 75, "detached", step=0.1)
        j = self.run_xload(lab, ECHO, "-M", "conn", "-c", conns, "-r", 64)
        count = max(1.0, j["cps"] * j["seconds"])
        return {"conn/s": (j["cps"], True), "p50 us": (j["transaction"]["p50"], False),
                "p99 us": (j["transaction"]["p99"], False), "cpu_us": ((j["busy_s"] - j["empty_s"]) * 1e6 / count, False)}

    def bulk(self, lab, direction):
        if direction == "in":
            j = self.run_xload(lab, SINK, "-M", "tx", "-c", 4)
            rate = j["tx_bytes_s"]
        else:
            j = self.run_xload(lab, SOURCE, "-M", "rx", "-c", 4, "-r", 0, "--window", 65536)
            rate = j["rx_bytes_s"]
        megabytes = max(1.0, rate * j["seconds"] / 1e6)
        return {"MB/s": (rate / 1e6, True), "cpu_us": ((j["busy_s"] - j["empty_s"]) * 1e6 / megabytes, False)}

    def redis(self, lab, test, pipeline):
        n = int(60000 * SECONDS * (1 if pipeline == 1 else 8))
        cmd = ["taskset", "-c", CLIENT_CPU, "redis-benchmark", "-h", lab.addr, "-p", REDIS, "-t", test, "-n", n, "-c", 50,
               "-P", pipeline, "--csv"]
        busy = busy_seconds()
        r = lab.client.run(cmd, timeout=120)
        busy = busy_seconds() - busy
        row = list(csv.reader(io.StringIO(r.stdout)))[-1]
        return {"req/s": (float(row[1]), True), "p50 us": (float(row[4]) * 1e3, False),
                "p99 us": (float(row[6]) * 1e3, False), "cpu_us": (busy * 1e6 / n, False)}

    def jobs_apart(self):
        for c in (1, 16, 64, 256, 1024):
            yield "RPC 64 B, %d connections" % c, ("plain", "shared"), lambda lab, c=c: self.rpc(lab, c)
        for test in ("set", "get"):
            for p in (1, 16):
                yield "redis %s, 50 connections, pipeline %d" % (test.upper(), p), ("plain", "shared"), \
                    lambda lab, t=test, p=p: self.redis(lab, t, p)
        yield "bulk to the server, 4 connections", ("plain", "shared"), lambda lab: self.bulk(lab, "in")
        yield "bulk from the server, 4 connections", ("plain", "shared"), lambda lab: self.bulk(lab, "out")
        yield "RPC 64 B, 16 connections, exclusive mode", ("plain", "exclusive"), lambda lab: self.rpc(lab, 16)

    def jobs_together(self):
        yield "connections of one exchange, 64 at once", ("plain", "shared", "exclusive"), lambda lab: self.short(lab, 64)

    # ---- rounds ----

    def run(self):
        self.run_apart([j for j in self.jobs_apart() if ONLY in j[0]])
        for name, modes, fn in self.jobs_together():
            if ONLY in name:
                self.run_together(name, modes, fn)

    def run_together(self, name, modes, fn):
        with contextlib.ExitStack() as stack:
            labs = {}
            for mode in modes:
                labs[mode] = self.open(mode)
                stack.callback(labs[mode].close)
            for n in range(ROUNDS * SLICES):
                for i in range(len(modes)):
                    mode = modes[(n + i) % len(modes)]
                    self.measure(n, ROUNDS * SLICES, mode, name, fn, labs[mode])

    def run_apart(self, jobs):
        for n in range(ROUNDS):
            for mode in ("plain", "shared", "exclusive"):
                mine = [(name, fn) for name, modes, fn in jobs if mode in modes]
                if not mine:
                    continue
                lab = self.open(mode)
                try:
                    for name, fn in mine:
                        self.measure(n, ROUNDS, mode, name, fn, lab)
                finally:
                    lab.close()


def main():
    parts = sys.argv[1:] or ["network", "local"]
    if set(parts) - {"network", "local"}:
        sys.exit("usage: bench.py [network | local]")
    if os.geteuid():
        sys.exit("bench.py: network namespaces need root")
    bench = Bench()
    start = time.time()
    try:
        if "network" in parts:
            bench.run()
        if "local" in parts:
            local.run(bench)
    except KeyboardInterrupt:
        print("\ninterrupted: reporting what there is")
    table = bench.report()
    print_table(table)
    os.makedirs(os.path.dirname(OUT), exist_ok=True)
    with open(OUT, "w") as f:
        json.dump({"kernel": platform.release(), "rounds": ROUNDS, "seconds": SECONDS, "placement": PLACEMENT,
                   "local": local.SETTING, "duration_s": round(time.time() - start), "errors": bench.errors, "rows": table}, f, indent=1)
    print("written: %s" % OUT)
    for e in bench.errors:
        print("failed: %s" % e)
    return 1 if bench.errors else 0


if __name__ == "__main__":
    sys.exit(main())
