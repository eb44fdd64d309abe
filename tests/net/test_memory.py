# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections and processes come and go: neither the service nor a program under the library holds more after the
ten-thousandth than after the first few.

What is kept in tables is touched when it is first used, so memory grows, now and then, until every table has been in use
as far as it will ever be. What is lost with a connection or a process grows in every block of rounds alike: the block
in which least was added tells the two apart.
"""
import os
import re
import socket
import struct

import pytest

from lab import echo_once, scale, tool, wait_for

PORT = 7
AT_ONCE = 8  # connections
BLOCKS = 4


def held(pid):
    """Private memory, memory shared with nobody but applications and service (KiB), mappings, descriptors."""
    with open("/proc/%d/smaps_rollup" % pid) as f:
        text = f.read()
    kib = sum(int(re.search(r"^%s: +(\d+)" % k, text, re.M).group(1)) for k in ("Pss_Anon", "Pss_Shmem"))
    with open("/proc/%d/maps" % pid) as f:
        return {"KiB": kib, "mappings": len(f.readlines()), "descriptors": len(os.listdir("/proc/%d/fd" % pid))}


def connect(lab):
    """A connection, and the process that serves it."""
    s = lab.connect(PORT)
    return s, int(s.recv(11, socket.MSG_WAITALL))


def end(s, how):
    if how == "reset":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b""
    s.close()


def churn(lab, rounds):
    """Each connection is adopted. Some are then given back to Linux, as urgent data are its own, some are reset."""
    for _ in range(rounds):
        socks = [connect(lab)[0] for _ in range(AT_ONCE)]
        for _ in range(4):
            for s in socks:
                echo_once(s)
        for s in socks[:2]:
            s.send(b"!", socket.MSG_OOB)
        for _ in range(2):
            for s in socks[:2]:
                echo_once(s)
        for i, s in enumerate(socks):
            end(s, "reset" if i >= AT_ONCE - 2 else "fin")


def at_rest(lab, apps):
    """Once all connections and processes of the past are forgotten, but for those in TIME_WAIT."""
    def rest():
        status = lab.tapas("status", "--json")
        flows = {k: v for k, v in status["flows"].items() if k not in ("max", "time_wait") and v}
        return status["apps"] <= apps and not flows

    wait_for(rest, 10, "all closed: %s" % lab.tapas("status", "--json"))


def compare(what, figures, kib, few=0):
    """Figures of held(), block after block: no block without growth of over kib is a leak, so is any descriptor."""
    early, late = figures[0], figures[-1]
    assert late["descriptors"] <= early["descriptors"] + few, (what, early, late)
    assert late["mappings"] <= early["mappings"] + few, (what, early, late)
    assert min(b["KiB"] - a["KiB"] for a, b in zip(figures, figures[1:])) <= kib, (what, [f["KiB"] for f in figures])


def is_instrumented(pid):
    """A sanitizer keeps what was freed for a while."""
    with open("/proc/%d/maps" % pid) as f:
        return "asan" in f.read()


@pytest.mark.parametrize("how", ["keep", "fork", "exec"])
def test_nothing_grows(make_lab, how):
    """One process that stays; a child for each connection; a new image for each."""
    lab = make_lab("shared", config={"nic": {"attach": "always"}})
    server = lab.run_server([tool("churn"), how, PORT], PORT)
    churn(lab, 250)
    if lab.plain:
        return
    at_rest(lab, 1)
    before, rounds = lab.counters(), scale(750, 90)
    service, program = [held(lab.service.pid)], [held(server.pid)]
    for _ in range(BLOCKS):
        churn(lab, rounds)
        at_rest(lab, 1)
        service.append(held(lab.service.pid))
        program.append(held(server.pid))
    after, rounds = lab.counters(), rounds * BLOCKS
    said = {k: after[k] - before[k] for k in after if after[k] != before[k]}
    print("%s: %s, %s\n%s" % (how, service, program, said))
    assert said["adopted"] >= 0.95 * AT_ONCE * rounds, said
    assert said["returned"] >= 0.95 * 2 * rounds, said
    if how != "keep":
        assert said["app_connected"] >= 0.95 * AT_ONCE * rounds, said
    kib, few = (1 << 20, 50) if is_instrumented(lab.service.pid) else (24, 2)
    compare("service", service, kib, few)
    compare("program", program, 8)


def test_generations(make_lab):
    """A process that goes on as its own child, again and again, keeps nothing of those before it, but its connection."""
    lab = make_lab("shared", config={"nic": {"attach": "always"}})
    lab.run_server([tool("churn"), "chain", PORT], PORT)
    generations = scale(1000, 200)
    pids, figures = set(), []
    before = None if lab.plain else lab.counters()
    stays, _ = connect(lab)
    for _ in range(generations):
        s, pid = connect(lab)
        for _ in range(4):
            echo_once(s)
        pids.add(pid)
        figures.append(held(pid))
        end(s, "fin")
        echo_once(stays)
    assert len(pids) == generations
    print("early: %s, late: %s" % (figures[9], figures[-1]))
    compare("generation", figures[9::(generations - 10) // BLOCKS], 16, few=2)
    if lab.plain:
        return
    said = {k: v - before[k] for k, v in lab.counters().items() if v != before[k]}
    print(said)
    assert said["adopted"] >= 0.95 * generations
    assert said["moved"] >= 0.95 * generations
    assert [f["remote_port"] for f in lab.flows("FAST")] == [stays.getsockname()[1]]
