# SPDX-License-Identifier: GPL-2.0-or-later
"""The POSIX cases on plain Linux and with the service, side by side.

    python3 tests/posix/compare.py [-m MODE] [-o TABLE.md] [CASE ...]

Each case (tests/posix/case_*.c) runs in a process of its own, once in a lab without a service
and once with it. What it says must be the same, line by line; and with the service its
connections must be carried by the fast path (the case proves it, see lab.c), to the end of the
case unless the case names the reason why not. CASE may be a pattern.

MODE is shared or exclusive, as of a Lab: the peer is at another host, and without the library. Or
it is local, direct (a service in shared mode, with local=service or direct) or local-only (one
without an interface): the peer is at the same host and has the library, too, so both ends are the
service's. TAPAS_PLAIN=1 compares Linux
with Linux in that place.
"""
import argparse
import difflib
import fnmatch
import os
import subprocess
import sys
import threading

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "net"))
import lab as labs  # noqa: E402

CASES = os.path.join(labs.BUILD, "tests", "net", "posix_cases")
PEER = os.path.join(labs.BUILD, "tests", "net", "posix_peer")
JOBS = 6
LIMIT_S = 400
LOCAL = {"local": "shared", "direct": "shared", "local-only": "local-only"}  # modes with both ends at one host: the Lab's
SOMETIMES = "now and then: "  # begins the reason of a known difference that does not show in every run
LOOPBACK = "127.0.0.1"
# where a case says this on Linux, the case is wrong
WRONG_ON_LINUX = ("cannot go on", "did not end", "ended by", "waiting for", "exit status 9", "peer command")


class Case:
    def __init__(self, line):
        self.name, self.text, self.returns, self.stays = line.split("\t")

    def path(self, directory, ext):
        return os.path.join(directory, self.name.replace("/", "-") + "." + ext)


class Outcome:
    """What one run of a case left: its lines, the proof of its connections, the library's messages."""

    def __init__(self, case, directory, plain):
        def read(ext):
            try:
                with open(case.path(directory, ext), errors="replace") as f:
                    return f.read().splitlines()
            except FileNotFoundError:
                return []

        self.lines = read("out")
        self.messages = read("err")
        proof = read("proof")
        self.conns = [x.split() for x in proof if x.startswith("conn ")]
        self.plain = plain
        self.ends = [x.split()[1] for x in proof if x.startswith("end ")]

    def wrong_on_linux(self):
        return [x for x in self.lines if x.startswith(WRONG_ON_LINUX)]

    @property
    def fast(self):
        return sum(x[2] == "fast" for x in self.conns)


class Comparison:
    def __init__(self, case, linux, tapas):
        self.case, self.linux, self.tapas = case, linux, tapas

    def carried(self):
        """None if the connections went as the case says, else what is wrong."""
        t = self.tapas
        if t.plain:
            return None
        if self.case.stays:
            return None if not t.fast else "a connection was accelerated, though: " + self.case.stays
        if not t.conns:
            return "no connection was warmed up"
        if t.fast < len(t.conns):
            return "%d of %d connections were not accelerated" % (len(t.conns) - t.fast, len(t.conns))
        if "linux" in t.ends and not self.case.returns:
            return "the connection was no longer accelerated at the end"
        return None

    def difference(self):
        """Lines of a diff; empty if there is none."""
        return list(difflib.unified_diff(self.linux.lines, self.tapas.lines, "Linux", "tapas", lineterm="", n=2))

    def failures(self):
        out = ["wrong on Linux: " + x for x in self.linux.wrong_on_linux()]
        out += self.difference()
        wrong = self.carried()
        return out + (["not carried: " + wrong] if wrong else [])

    def how(self):
        if self.case.stays:
            return "Linux: " + self.case.stays
        if "linux" in self.tapas.ends:
            return "fast, then Linux" + (": " + self.case.returns if self.case.returns else "")
        return "fast"


def local_config(mode):
    return {"service": {"local": "service" if mode == "local" else "direct"}} if mode in LOCAL else None


def known(mode="shared"):
    """Cases that are known to differ, with the reason."""
    with open(os.path.join(HERE, "known-local.txt" if mode in LOCAL else "known.txt")) as f:
        return dict(line.rstrip("\n").split("\t") for line in f if line.strip() and not line.startswith("#"))


def list_cases(patterns=()):
    out = subprocess.run([CASES, "list"], stdout=subprocess.PIPE, text=True, check=True).stdout
    cases = [Case(line) for line in out.splitlines()]
    assert len({c.name for c in cases}) == len(cases), "two cases of one name"
    return [c for c in cases if not patterns or any(fnmatch.fnmatch(c.name, p) for p in patterns)]


class Place:
    """Where the cases and their peer are: at two hosts, or both at the service's."""

    def __init__(self, lab, local):
        self.lab, self.local = lab, local
        self.host = lab.server if local else lab.client
        self.addr, self.peer_addr = (LOOPBACK, LOOPBACK) if local else (lab.addr, lab.sources[0])
        self.ctl = os.path.join(lab.dir, "peer.sock")

    def start_peer(self):
        # a peer that does not read takes little, whatever the machine's limits, so that a case has soon filled it up
        self.host.sysctl("net.ipv4.tcp_rmem", "4096 131072 1048576")
        # cases count segments: no probe for a lost tail when an acknowledgement is some milliseconds late
        self.host.sysctl("net.ipv4.tcp_early_retrans", 0)
        self.lab.spawn(self.host, [PEER, self.ctl, self.addr], ready="ready",
                       accelerated=self.local and not self.lab.plain)


def run_cases(lab, cases, local=False):
    """All cases in one lab; returns the outcomes by name."""
    place = Place(lab, local)
    place.start_peer()
    got = run_batch(place, cases, "cases")
    # what Linux alone must be able to do: once more for those that a busy machine held up
    late = [c for c in cases if lab.plain and got[c.name].wrong_on_linux()]
    if late:
        got.update(run_batch(place, late, "again"))
    return got


def run_batch(place, cases, subdir):
    lab = place.lab
    directory = os.path.join(lab.dir, subdir)
    os.mkdir(directory)
    env = lab.env(POSIX_CTL=place.ctl, POSIX_ADDR=place.addr, POSIX_PEER_ADDR=place.peer_addr, TAPAS_VERBOSE="1",
                  POSIX_FAST="0" if lab.plain else "1", POSIX_BUILD=os.path.dirname(CASES))
    argv = [CASES, "batch", directory, JOBS, *[c.name for c in cases]]
    if not lab.plain:
        argv = [*labs.run_prefix(), *argv]
    r = lab.server.run(argv, env=env, timeout=LIMIT_S, check=False)
    assert r.returncode == 0, "posix_cases batch: %s %s" % (r.stdout[-500:], r.stderr[-500:])
    return {c.name: Outcome(c, directory, lab.plain) for c in cases}


def compare(cases, mode="shared"):
    """Runs the cases on both; returns the comparisons and the service's counters."""
    got, errors, counters = {}, [], {}
    local = mode in LOCAL

    def side(name, where):
        try:
            with labs.Lab(where, config=local_config(mode)) as lab:
                got[name] = run_cases(lab, cases, local)
                if not lab.plain:
                    assert lab.service.poll() is None, "tapasd ended by itself:\n" + lab.log()[-4000:]
                    counters.update(lab.counters())
        except BaseException as e:  # handed to the caller below
            errors.append(e)

    threads = [threading.Thread(target=side, args=x) for x in (("Linux", "plain"), ("tapas", LOCAL.get(mode, mode)))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
    return [Comparison(c, got["Linux"][c.name], got["tapas"][c.name]) for c in cases], counters


def check_counters(results, counters, mode="shared"):
    """The service's own word for what the cases claim: so many adoptions, so many bytes."""
    claimed = sum(c.tapas.fast for c in results)
    if mode in LOCAL:
        assert counters["local_pairs"] >= claimed, "%d pairs, the cases say %d" % (counters["local_pairs"], claimed)
        assert counters["local_bytes"] >= 2 * 16 * claimed, "bytes: %s" % counters
        return
    assert counters["adopted"] >= claimed, "adopted %d, the cases say %d" % (counters["adopted"], claimed)
    assert min(counters["rx_bytes"], counters["tx_bytes"]) >= 16 * claimed, "bytes: %s" % counters


def cell(lines, limit=110):
    text = "; ".join(lines) or "(nothing)"
    text = text if len(text) <= limit else text[:limit - 1] + "…"
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def table(results):
    bad = [c for c in results if c.failures()]
    out = ["# The same programs on Linux and on tapas", "",
           "Made by `make posix-table`; see `tests/posix/compare.py`. Each case runs in a process of its own, with a peer",
           "on another host. \"fast\": its connections were carried by the service; proved after the warm-up, and at the end",
           "of the case once more if they are still open.", "",
           "%d cases, %d of them without difference." % (len(results), len(results) - len(bad)), "",
           "| case | what it checks | on Linux | on tapas |", "|---|---|---|---|"]
    for c in results:
        diff = [x for x in c.difference()[2:] if x[:1] in "+-"]
        if diff:
            said = "**differs**: " + cell([x for x in diff if x[0] == "+"] or diff)
        else:
            said = "same"
        wrong = c.carried()
        how = "**not carried**: " + wrong if wrong else c.how()
        out.append("| %s | %s | %s | %s; %s |" % (c.case.name, cell([c.case.text], 200), cell(c.linux.lines), said, how))
    return "\n".join(out) + "\n"


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("-m", "--mode", default="shared", choices=["plain", "shared", "exclusive", *LOCAL])
    ap.add_argument("-o", "--output")
    ap.add_argument("-v", "--verbose", action="store_true")
    ap.add_argument("cases", nargs="*")
    a = ap.parse_args()
    labs.remove_orphans()
    results, counters = compare(list_cases(a.cases), a.mode)
    for c in results:
        bad = c.failures()
        if bad or a.verbose:
            print("\n".join(["== " + c.case.name] + (bad if bad else c.linux.lines)))
            if bad and a.verbose:
                print("-- Linux: %s\n-- tapas: %s\n-- messages: %s" % (c.linux.lines, c.tapas.lines, c.tapas.messages))
    print("%d cases, %d differ" % (len(results), sum(bool(c.failures()) for c in results)))
    if a.output:
        with open(a.output, "w") as f:
            f.write(table(results))
    if a.mode != "plain" and not labs.PLAIN:
        check_counters(results, counters, a.mode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
