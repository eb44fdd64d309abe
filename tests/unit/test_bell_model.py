# SPDX-License-Identifier: GPL-2.0-or-later
"""The sleep and wake protocol, verified in a model (service/ipc/bell.pml): every order of every
step. Variants without one of its parts must fail, or the model would prove nothing."""
import os
import re
import subprocess

import pytest

MODEL = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "service/ipc/bell.pml"))


def verify(directory, *defines):
    """(errors, states) of the whole state space."""
    options = ["-D" + d for d in defines]
    subprocess.run(["spin", "-a", *options, MODEL], cwd=directory, check=True, stdout=subprocess.PIPE, timeout=60)
    subprocess.run(["gcc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c"], cwd=directory, check=True,
                   timeout=120)
    out = subprocess.run(["./pan", "-m200000"], cwd=directory, check=True, stdout=subprocess.PIPE, text=True,
                         timeout=240).stdout
    assert "max search depth too small" not in out, out
    errors, states = re.search(r"errors: (\d+)", out), re.search(r"(\d+) states, stored", out)
    return int(errors.group(1)), int(states.group(1))


@pytest.mark.parametrize("variant", [(), ("SHARED",), ("DEATH",), ("DOORBELL",), ("DOORBELL", "DEATH"),
                                     ("SHARED", "DEATH")])
def test_holds(variant, tmp_path):
    errors, states = verify(tmp_path, *variant)
    assert errors == 0
    assert states > 1000


@pytest.mark.parametrize("variant", [
    ("NO_SECOND_LOOK",), ("NO_SLEEPER_FENCE",), ("NO_RINGER_FENCE",), ("SUMMARY_LAST",),
    ("DOORBELL", "NO_SECOND_LOOK"), ("DOORBELL", "NO_SLEEPER_FENCE"), ("DOORBELL", "NO_RINGER_FENCE"),
    ("SHARED", "NO_HAND_ON"), ("DEATH", "DEATH_TAKES"),
])
def test_broken_is_caught(variant, tmp_path):
    errors, _ = verify(tmp_path, *variant)
    assert errors > 0
