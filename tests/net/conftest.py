# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures: `lab` makes hosts that vanish with the test, `both_modes` runs a test in shared and in exclusive mode."""
import os
import resource
import signal
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
import lab as lab_module  # noqa: E402


def pytest_configure(config):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192) if hard > 0 else 8192, hard))
    # a terminated run cleans up as an interrupted one does
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))


def pytest_collection_modifyitems(config, items):
    if os.geteuid() == 0:
        lab_module.remove_orphans()
        return
    skip = pytest.mark.skip(reason="network namespaces need root")
    for item in items:
        item.add_marker(skip)


def pytest_generate_tests(metafunc):
    """What local connections must be able to do they must be with either way to carry them."""
    if metafunc.module.__name__ in ("test_local", "test_local_life") and "make_lab" in metafunc.fixturenames:
        metafunc.parametrize("make_lab", ["service", "direct"], indirect=True)


@pytest.fixture
def make_lab(request):
    """make_lab(mode=..., ...) -> Lab; closed, and its log shown on failure, at the end of the test."""
    made = []

    def make(*args, **kw):
        if "local" in request.node.name or "test_local" in request.module.__name__:
            config = kw.setdefault("config", {})
            kw["config"] = dict(config, service={"local": getattr(request, "param", "service"), **config.get("service", {})})
        made.append(lab_module.Lab(*args, **kw))
        return made[-1]

    try:
        yield make
    finally:
        crashed = []
        for x in reversed(made):
            log = x.log()
            if x.service is not None and x.service.poll() is not None:
                crashed.append(x.service.returncode)
            failed = getattr(request.node, "failed_call", False) or crashed
            if failed:
                print(x.picture())
            if failed and log:
                print("---- tapasd's log (end) ----\n" + log[-6000:])
            x.close()
        assert not crashed, "tapasd ended by itself with status %s" % crashed


@pytest.fixture(params=["shared", "exclusive"])
def lab(request, make_lab):
    """A lab with the service running, once in each mode."""
    return make_lab(request.param)


@pytest.fixture
def shared(make_lab):
    return make_lab("shared")


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.failed_call = outcome.get_result().failed
