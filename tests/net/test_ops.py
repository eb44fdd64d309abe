# SPDX-License-Identifier: GPL-2.0-or-later
"""Random socket operations on connections that are adopted, compared with plain Linux (tests/local/compare_ops.py).

One of the two ends is at the other host and without the library, so each connection may become FAST, and does if it
lives a little; or both ends are at the service's host and have the library, so connections are local. The transcripts of
both runs must be the same."""
import os
import sys

import pytest

from lab import BUILD, FULL, PLAIN, ROOT, FastShare, built, scale

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
SEEDS = scale(1500, 25)
ADOPTED_EACH = 2  # connections of a seed that are adopted, at the least; there are about five
BYTES_EACH = 10000

RELEASE = ["--service", os.path.join(BUILD, "tapas") + " release --all >/dev/null"]
LOCAL = {  # share of the seeds, options
    "loopback": (0.4, []),
    "later": (0.2, ["pause=5"]),
    "addresses": (0.1, ["to=10.77.%d.1", "from=10.77.%d.9"]),
    "one process": (0.1, ["mode=single"]),
    "released": (0.2, RELEASE),
}

pytestmark = pytest.mark.skipif(PLAIN, reason="compares with plain Linux itself")
far = pytest.mark.skipif(not FULL, reason="long: TAPAS_FULL=1; some differences are not mended yet, see HACKING.md")


def run_ops(lab, start, seeds, argv):
    built("tests", "local", "ops")
    r = lab.server.run([PYTHON, os.path.join(ROOT, "tests", "local", "compare_ops.py"), "--start", start, "--count", seeds,
                        *argv], env=lab.env(), check=False, timeout=60 + 4 * seeds)
    print(r.stdout)
    assert r.returncode == 0, r.stdout + r.stderr


def compare(lab, far, start, seeds=SEEDS, flags=(), options=("pause=30",), carried=True):
    where = {"a": lab.addr, "b": lab.sources[0]}[far]
    share = FastShare(lab)
    run_ops(lab, start, seeds, [*flags, "far-%s=%s" % (far, lab.client.name), "to=%s" % where, *options])
    share.measure()
    if carried:
        assert share.delta["adopted"] >= ADOPTED_EACH * seeds, share.delta
        assert share.fast >= BYTES_EACH * seeds, share.delta
    return share


@far
@pytest.mark.parametrize("far", ["a", "b"])
def test_random_operations(lab, far):
    compare(lab, far, 1000 if far == "a" else 5000)


@far
def test_released_in_the_middle(shared):
    share = compare(shared, "a", 20000, flags=RELEASE)
    assert share.delta["returned"] >= SEEDS // 4, share.delta


@far
@pytest.mark.parametrize("exchanges", [0, 3])
def test_adopted_at_other_moments(make_lab, exchanges):
    """After a byte or later, and without a pause: in the middle of the operations."""
    compare(make_lab("shared", config={"adopt": {"exchanges": exchanges, "bytes": 1 << 20}}), "a", 30000,
            options=["pause=%d" % (5 if exchanges else 0)], carried=not exchanges)


@far
@pytest.mark.parametrize("where", list(LOCAL))
def test_local(make_lab, where):
    """Both ends are local: 10,000 seeds in all in the full run."""
    lab = make_lab("shared")
    lab.server.run(["ip", "addr", "add", "10.77.%d.9/24" % lab.n, "dev", "nic0"])
    share, options = LOCAL[where]
    seeds = int(scale(10000, 40) * share)
    options = [o % lab.n if "%d" in o else o for o in options]
    run_ops(lab, 100000 * (1 + list(LOCAL).index(where)), seeds,
            ["--counter", "local_pairs", "--least", str(seeds), *options])
    assert where != "released" or lab.counters()["returned"] >= seeds // 4, lab.counters()
