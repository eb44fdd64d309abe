#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the library costs programs without sockets: `git status`, `find`, a shell loop that starts programs and one
that does not, each in turn without and with it preloaded.

No service runs: nothing asks for it. Figures are medians of wall and CPU time (user and system, children included)
over BENCH_COMMAND_ROUNDS (31) rounds, in which the order alternates. `differ` is the median of the differences within
a round, which the machine's slow moments touch less than the medians. Results go to BENCH_OUT_COMMANDS
(build/bench-commands.json).
"""
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.realpath(os.path.join(HERE, "..", ".."))
BUILD = os.environ.get("TAPAS_BUILD", os.path.join(ROOT, "build"))
LIBRARY = os.path.join(BUILD, "libtapas-preload.so")
ROUNDS = int(os.environ.get("BENCH_COMMAND_ROUNDS", "31"))
OUT = os.environ.get("BENCH_OUT_COMMANDS", os.path.join(BUILD, "bench-commands.json"))

ROWS = {
    "true, once": ["/bin/true"],
    "git status": ["git", "-C", "repo", "status", "--short"],
    "find | sort": ["sh", "-c", "find tree -type f -printf '%s %p\\n' | sort -n"],
    "shell, 50 x /bin/true": ["sh", "-c", "i=0; while [ $i -lt 50 ]; do /bin/true; i=$((i + 1)); done"],
    "shell, 50 x subshell": ["bash", "-c", "for i in {1..50}; do (exit 0); done"],
    "shell, 50000 turns": ["sh", "-c", "i=0; while [ $i -lt 50000 ]; do i=$((i + 1)); done"],
    "dd, 100000 read and write": ["dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=100000", "status=none"],
}


def prepare(where):
    repo = os.path.join(where, "repo")
    subprocess.run(["git", "init", "-q", repo], check=True)
    for top in (repo, os.path.join(where, "tree")):
        for i in range(2000):
            d = os.path.join(top, "d%d" % (i % 50))
            os.makedirs(d, exist_ok=True)
            with open(os.path.join(d, "f%d" % i), "w") as f:
                f.write("x" * (i % 100))
    git = ["git", "-C", repo, "-c", "user.name=b", "-c", "user.email=b@example.org"]
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "all"], check=True)


def cpu_s():
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    return u.ru_utime + u.ru_stime


def once(argv, where, env):
    cpu, start = cpu_s(), time.perf_counter()
    subprocess.run(argv, cwd=where, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start, cpu_s() - cpu


def row(argv, where):
    plain = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    envs = {"linux": plain, "tapas": dict(plain, LD_PRELOAD=LIBRARY)}
    times = {"linux": [], "tapas": []}
    for i in range(ROUNDS + 2):
        for who in sorted(envs, reverse=bool(i % 2)):
            t = once(argv, where, envs[who])
            if i >= 2:  # the first rounds fill caches
                times[who].append(t)
    figure = {}
    for k, what in enumerate(("wall", "cpu")):
        a, b = ([t[k] * 1000 for t in times[who]] for who in ("linux", "tapas"))
        figure.update({"linux_%s_ms" % what: statistics.median(a), "tapas_%s_ms" % what: statistics.median(b),
                       "differ_%s_ms" % what: statistics.median(y - x for x, y in zip(a, b))})
    return {k: round(v, 4) for k, v in figure.items()}


def main():
    if not os.path.exists(LIBRARY):
        sys.exit("%s is missing: run make first" % LIBRARY)
    print("%-28s %10s %10s %10s   %10s" % ("milliseconds", "linux", "tapas", "differ", "differ cpu"))
    result = {"rounds": ROUNDS, "rows": {}}
    with tempfile.TemporaryDirectory() as where:
        prepare(where)
        for name, argv in ROWS.items():
            f = result["rows"][name] = row(argv, where)
            print("%-28s %10.2f %10.2f %+10.2f   %+10.2f" % (name, f["linux_wall_ms"], f["tapas_wall_ms"],
                                                             f["differ_wall_ms"], f["differ_cpu_ms"]), flush=True)
    with open(OUT, "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
