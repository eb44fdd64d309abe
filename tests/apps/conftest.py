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
from apps import lab_for  # noqa: E402


def pytest_configure(config):
    net.pytest_configure(config)
    config.addinivalue_line("markers", "seconds(n): the time that the long run of this test may take")


pytest_runtest_makereport = net.pytest_runtest_makereport
make_lab = net.make_lab
pytest_collection_modifyitems = net.pytest_collection_modifyitems


@pytest.fixture(params=["shared", "exclusive"] if net.lab_module.FULL else ["shared"])
def mode(request):
    return request.param


@pytest.fixture
def lab(mode, make_lab):
    return lab_for(make_lab, mode)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """A program that hangs is a failure, not the end of the run."""
    longer = item.get_closest_marker("seconds")
    limit = (longer.args[0] if longer else 600) if net.lab_module.FULL else 60

    def late(*_):
        raise TimeoutError("the test took more than %d seconds" % limit)

    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
