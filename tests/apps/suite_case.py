#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""One module of CPython's own test suite, in this process: suite_case.py OUTPUT MODULE [ID ...]

Writes to OUTPUT `case ID` for all test cases, and then, as it happens, `start ID` and `RESULT ID`; with IDs only these
are run. What `python3 -m test` sets up is done here as far as the modules of the network need it. Cases that want hosts
of the Internet are skipped. Must not import anything that the suites look at.
"""
import faulthandler
import os
import sys
import unittest

SAY_NETWORK = ["test_socketserver"]  # and mean this host


class Outcome(unittest.TestResult):
    """One line for each case; a case with subtests has the worst of their results."""

    def __init__(self, out):
        super().__init__()
        self.out = out
        self.said = {}

    def line(self, what, test):
        os.write(self.out, ("%s %s\n" % (what, test.id())).encode())

    def startTest(self, test):
        super().startTest(test)
        self.said[test.id()] = "ok"
        self.line("start", test)

    def stopTest(self, test):
        super().stopTest(test)
        self.line(self.said.pop(test.id(), "ok"), test)

    def note(self, what, test, err=None):
        if err:
            sys.stderr.write("---- %s %s\n%s\n" % (what, test.id(), self._exc_info_to_string(err, test)))
        if test.id() in self.said:
            self.said[test.id()] = what
        else:  # a module's or a class's fixture
            self.line(what, test)

    def addError(self, test, err):
        self.note("error", test, err)

    def addFailure(self, test, err):
        self.note("failed", test, err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.note("failed", test, err)

    def addSkip(self, test, reason):
        self.note("skipped", getattr(test, "test_case", test))

    def addExpectedFailure(self, test, err):
        self.note("expected", test)

    def addUnexpectedSuccess(self, test):
        self.note("unexpected", test)


def cases(tests):
    for t in tests:
        if isinstance(t, unittest.TestSuite):
            yield from cases(t)
        else:
            yield t


def main():
    out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    module, wanted = sys.argv[2], set(sys.argv[3:])
    faulthandler.enable()
    from test import support
    support.use_resources = ["cpu", "walltime", "largefile"] + (["network"] if module in SAY_NETWORK else [])
    support.verbose = 0
    name = "test." + module
    loaded = unittest.defaultTestLoader.loadTestsFromName(name)
    suite = unittest.TestSuite(t for t in cases(loaded) if not wanted or t.id() in wanted)
    os.write(out, "".join("case %s\n" % t.id() for t in suite).encode())
    suite.run(Outcome(out))
    os.write(out, b"end\n")


if __name__ == "__main__":
    main()
