# SPDX-License-Identifier: GPL-2.0-or-later
"""A service with nothing to do does nothing."""
import os
import socket
import sys
import time

import pytest

from lab import cpu_seconds, echo_once, scale, wait_for

PORT = 7
PEER = os.path.join(os.path.dirname(__file__), "peer.py")
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


def open_many(lab, n):
    def body():
        socks = []
        for i in range(n):
            s = socket.socket()
            s.settimeout(5)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            s.bind((lab.sources[i % 2], 0))
            s.connect((lab.addr, PORT))
            socks.append(s)
        return socks
    return lab.client.call(body)


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_idle_connections_cost_nothing(make_lab, mode):
    """1000 idle FAST connections: less than 1 % of a core, and they still work afterwards."""
    lab = make_lab(mode, config={"shadow": {"heartbeat_ms": 10000}})
    if lab.plain:
        pytest.skip("needs the service")
    server = lab.run_server([PYTHON, PEER, "echo", PORT], ready="ready")
    socks = open_many(lab, 1000)

    def all_fast():
        for s in socks:
            echo_once(s)
        return lab.status()["fast"] == len(socks)

    wait_for(all_fast, 20, "1000 FAST connections; %s" % lab.status())
    time.sleep(1.0)
    pids = {"service": lab.service.pid, "application": server.pid}
    before = {k: cpu_seconds(p) for k, p in pids.items()}
    seconds = scale(20, 5)
    time.sleep(seconds)
    for k, p in pids.items():
        share = (cpu_seconds(p) - before[k]) / seconds
        assert share < 0.01, "%s used %.1f %% of a core while idle" % (k, 100 * share)
    for s in socks:
        echo_once(s)
    assert lab.status()["fast"] == len(socks)
    for s in socks:
        s.close()
    wait_for(lambda: lab.status()["fast"] == 0, 10, "all closed")


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_fresh_service_costs_nothing(make_lab, mode):
    lab = make_lab(mode)
    if lab.plain:
        pytest.skip("needs the service")
    time.sleep(0.5)
    before = cpu_seconds(lab.service.pid)
    time.sleep(3)
    assert cpu_seconds(lab.service.pid) - before <= 0.02
    assert all(t["asleep"] for t in lab.tapas("status", "--json")["threads"])
