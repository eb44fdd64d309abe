# SPDX-License-Identifier: GPL-2.0-or-later
"""The same small programs on plain Linux and with the service: tests/posix, a test for each case.

All cases run at once, in two labs, before the first of these tests; `make posix-table` writes the
same as a table. Run some with PYTEST_ARGS='-k "posix and epoll"'.
"""
import os
import sys

import pytest

import lab as labs

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "posix"))
import compare  # noqa: E402

MODES = ["shared", "exclusive", "local", "direct", "local-only"] if labs.FULL else ["shared", "local", "direct"]
CASES = compare.list_cases()
_results = {}


@pytest.fixture(scope="module")
def results(request):
    """results(mode): all comparisons by name, made once."""
    wanted = {i.callspec.params["case"] for i in request.session.items if i.module is request.module and
              hasattr(i, "callspec") and "case" in i.callspec.params}

    def get(mode):
        if mode not in _results:
            cases = [c for c in CASES if c.name in wanted] or CASES
            found, counters = compare.compare(cases, mode)
            _results[mode] = ({c.case.name: c for c in found}, counters)
        return _results[mode]

    yield get
    _results.clear()


def test_there_are_enough():
    assert len(CASES) >= 300
    for c in CASES:
        assert c.text and not (c.returns and c.stays), c.name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [c.name for c in CASES])
def test_same(results, mode, case):
    c = results(mode)[0][case]
    wrong = c.failures()
    known = compare.known(mode).get(case) if not labs.PLAIN else None
    if known and wrong:
        pytest.xfail(known)
    if known and not known.startswith(compare.SOMETIMES):
        pytest.fail("%s agrees with Linux: take it out of the known ones of mode %s" % (case, mode), pytrace=False)
    if wrong:
        pytest.fail("\n".join([c.case.name + ": " + c.case.text, *wrong, *c.tapas.messages]), pytrace=False)


@pytest.mark.skipif(labs.PLAIN, reason="needs the service")
@pytest.mark.parametrize("mode", MODES)
def test_service_agrees(results, mode):
    """The service's counters say at least what the cases prove."""
    found, counters = results(mode)
    compare.check_counters(found.values(), counters, mode)
