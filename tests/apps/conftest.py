# SPDX-License-Identifier: GPL-2.0-or-later
"""The network tests' fixtures, for whole programs. `lab` is the shared mode, and with TAPAS_FULL=1 the exclusive one
as well."""
import importlib.util
import os
import signal
import sys

import pytest

NET = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "net")
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
spec = importlib.util.spec_from_file_location("net_conftest", os.path.join(NET, "conftest.py"))
net = importlib.util.module_from_spec(spec)
spec.loader.exec_module(net)

pytest_configure = net.pytest_configure
pytest_collection_modifyitems = net.pytest_collection_modifyitems
pytest_runtest_makereport = net.pytest_runtest_makereport
make_lab = net.make_lab


@pytest.fixture(params=["shared", "exclusive"] if net.lab_module.FULL else ["shared"])
def mode(request):
    return request.param


@pytest.fixture
def lab(mode, make_lab):
    return make_lab(mode)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """A program that hangs is a failure, not the end of the run."""
    limit = 600 if net.lab_module.FULL else 60

    def late(*_):
        raise TimeoutError("the test took more than %d seconds" % limit)

    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
