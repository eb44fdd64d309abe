# SPDX-License-Identifier: GPL-2.0-or-later
"""Random socket operations on connections that are adopted, compared with plain Linux (tests/local/compare_ops.py).

One of the two ends is at the other host and without the library, so each connection may become FAST, and does if it
lives a little; the transcripts of both runs must be the same."""
import os
import sys

import pytest

from lab import FULL, PLAIN, ROOT, FastShare, built, scale

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
SEEDS = scale(1500, 25)
ADOPTED_EACH = 2  # connections of a seed that are adopted, at the least; there are about five
BYTES_EACH = 10000

pytestmark = [pytest.mark.skipif(PLAIN, reason="compares with plain Linux itself"),
              pytest.mark.skipif(not FULL, reason="long: TAPAS_FULL=1; some differences are not mended yet, see HACKING.md")]


def compare(lab, far, start, seeds=SEEDS, flags=(), options=("pause=30",), carried=True):
    built("tests", "local", "ops")
    where = {"a": lab.addr, "b": lab.sources[0]}[far]
    share = FastShare(lab)
    r = lab.server.run([PYTHON, os.path.join(ROOT, "tests", "local", "compare_ops.py"), "--start", start, "--count", seeds,
                        *flags, "far-%s=%s" % (far, lab.client.name), "to=%s" % where, *options],
                       env=lab.env(), check=False, timeout=60 + 4 * seeds)
    assert r.returncode == 0, r.stdout + r.stderr
    share.measure()
    if carried:
        assert share.delta["adopted"] >= ADOPTED_EACH * seeds, share.delta
        assert share.fast >= BYTES_EACH * seeds, share.delta
    return share


@pytest.mark.parametrize("far", ["a", "b"])
def test_random_operations(lab, far):
    compare(lab, far, 1000 if far == "a" else 5000)


def test_released_in_the_middle(shared):
    share = compare(shared, "a", 20000, flags=["--service", os.path.join(os.path.dirname(built("tapas")), "tapas") +
                                               " release --all >/dev/null"])
    assert share.delta["returned"] >= SEEDS // 4, share.delta


@pytest.mark.parametrize("exchanges", [0, 3])
def test_adopted_at_other_moments(make_lab, exchanges):
    """After a byte or later, and without a pause: in the middle of the operations."""
    compare(make_lab("shared", config={"adopt": {"exchanges": exchanges, "bytes": 1 << 20}}), "a", 30000,
            options=["pause=%d" % (5 if exchanges else 0)], carried=not exchanges)
