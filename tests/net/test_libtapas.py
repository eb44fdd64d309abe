# SPDX-License-Identifier: GPL-2.0-or-later
"""The low-level interface: libtapas as a server and as a client, with the service and without it."""
import random

import pytest

from lab import FastShare, scale, stop_process, tool

PORT = 7000


def exchange(socks, rnd, rounds, largest):
    """Random pieces to and from an echo server on all connections; returns the bytes sent."""
    total = 0
    for _ in range(rounds):
        for s in socks:
            data = rnd.randbytes(rnd.choice((1, 64, 1448, 5000, largest)))
            s.sendall(data)
            got = b""
            while len(got) < len(data):
                piece = s.recv(1 << 17)
                assert piece, "closed after %d of %d bytes" % (len(got), len(data))
                got += piece
            assert got == data
            total += len(data)
    return total


def fast_count(output):
    return int([x for x in output.splitlines() if x.endswith(" fast")][-1].split()[0])


def test_server(lab):
    server = lab.run_server([tool("lowlevel"), "echo", PORT], ready="ready", accelerated=False)
    socks = [lab.connect(PORT, timeout=10) for _ in range(8)]
    share = FastShare(lab)
    first = exchange(socks, random.Random(3), 1, 64)
    total = exchange(socks, random.Random(4), scale(40, 8), 60000)
    share.assert_fast(0.90, connections=0, payload=2 * (total + first))
    for s in socks:
        s.close()
    stop_process(server)


def test_client_moves_between_contexts(lab):
    """Connections change their context in mid-stream; every byte is compared."""
    lab.spawn(lab.client, [tool("talk"), "server", 7001], ready="ready")
    lab.spawn(lab.client, [tool("lowlevel"), "echo", PORT], ready="ready")
    share = FastShare(lab)
    size = scale(4 << 20, 400000)
    r = lab.server.run([tool("lowlevel"), "load", lab.sources[0], PORT, 12, size], env=lab.env(), check=False)
    assert r.returncode == 0, r.stderr
    share.assert_fast(0.90, connections=12, payload=2 * 12 * size)
    if not lab.plain:
        assert fast_count(r.stdout) == 12


@pytest.mark.parametrize("mode", ["shared"])
def test_without_service(make_lab, mode):
    """The same program on plain Linux, through the library's own buffers."""
    lab = make_lab(mode, start=False)
    server = lab.run_server([tool("lowlevel"), "echo", PORT], ready="ready", accelerated=False)
    socks = [lab.connect(PORT, timeout=10) for _ in range(4)]
    exchange(socks, random.Random(5), 6, 200000)
    for s in socks:
        s.close()
    r = lab.client.run([tool("lowlevel"), "load", lab.addr, PORT, 5, 300000], env=lab.env(), check=False)
    assert r.returncode == 0 and fast_count(r.stdout) == 0, r.stderr
    stop_process(server)
