# SPDX-License-Identifier: GPL-2.0-or-later
"""CPython's own test suites of the network must have the outcome within a host on tapas that they have on plain Linux,
case by case, and go by memory: see suites.py."""
import os

import pytest

from apps import ASAN_LIBRARY, FULL, SHARE, need
from suites import CONFIG, measure, record, shares

QUICK = ["test_asynchat", "test_epoll", "test_httplib", "test_httpservers", "test_nntplib", "test_select",
         "test_smtplib", "test_telnetlib", "test_urllib2_localnet"]
LONG = ["test_asyncio", "test_asyncore", "test_docxmlrpc", "test_ftplib", "test_imaplib", "test_logging",
        "test_multiprocessing_fork", "test_poll", "test_poplib", "test_selectors", "test_smtpd", "test_socket",
        "test_socketserver", "test_ssl", "test_wsgiref", "test_xmlrpc"]
INSTALLED = "/usr/lib/python3.11/test/test_socket.py"
measured = []


@pytest.mark.skipif(bool(ASAN_LIBRARY), reason="what the suites say of memory and threads is not said of a sanitizer's")
@pytest.mark.seconds(3000)
@pytest.mark.parametrize("suite", sorted(QUICK + LONG) if FULL else QUICK)
def test_suite_local(make_lab, suite):
    need("tcpdump")
    assert os.path.exists(INSTALLED), "libpython3.11-testsuite is missing: run tests/setup.sh"
    lab = make_lab("shared", config=CONFIG)
    if lab.plain:
        pytest.skip("compares with plain Linux by itself")
    figure, _, said = measure(lab, suite)
    record(figure)
    measured.append(figure)
    print(said[-8000:])
    assert figure["ok"], figure
    assert not figure["differs"], figure["differs"]


def test_share_local():
    """Of all these together: most suites' connections are over when they might be adopted."""
    if not measured:
        pytest.skip("no suite was run")
    connections, size = shares(measured)
    assert sum(f["eligible"] for f in measured) >= 50, measured
    assert connections >= SHARE and size >= SHARE, (connections, size, measured)
