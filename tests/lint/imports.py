#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Includes name their layer by a path from the root, and no layer includes one above it."""
import re
import subprocess
import sys

# A layer may include itself and what is listed. Order: HACKING.md.
BASE = {"service/base"}
LOW = BASE | {"service/ipc", "service/wire", "service/loop"}
MIDDLE = LOW | {"shadow", "service/nic", "service/tcp"}
FAST = MIDDLE | {"service/fast", "service/offload"}
SLOW = FAST | {"service/slow"}
MAY = {
    "service/base": BASE,
    "service/ipc": BASE | {"service/ipc"},
    "service/wire": BASE | {"service/wire"},
    "service/loop": BASE | {"service/loop"},
    "shadow": LOW | {"shadow", "service/tcp"},
    "service/nic": LOW | {"service/nic"},
    "service/tcp": BASE | {"service/wire", "service/tcp"},
    "service/fast": FAST,
    "service/offload": FAST,
    "service/slow": SLOW | {"service/config.h"},
    "service/cli": BASE | {"service/ipc", "service/cli"},
    "service": SLOW | {"service", "service/config.h"},
    "preload": BASE | {"service/ipc", "preload"},
}


def layer(path):
    parts = path.split("/")
    if parts[0] in ("shadow", "preload"):
        return parts[0]
    return "/".join(parts[:2]) if len(parts) > 2 else parts[0]


def main():
    files = subprocess.check_output(
        ["git", "ls-files", "service/*.[ch]", "shadow/*.[ch]", "preload/*.[ch]"], text=True
    ).split()
    bad = 0
    for name in files:
        for number, line in enumerate(open(name), 1):
            m = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if not m:
                continue
            target = m.group(1)
            if target.endswith(".skel.h"):
                continue
            if not re.match(r"(service|shadow|preload)/", target):
                print(f"{name}:{number}: {target}: include by the path from the root")
                bad += 1
            elif layer(target) not in MAY[layer(name)] and target not in MAY[layer(name)]:
                print(f"{name}:{number}: {layer(name)} may not include {target}: it is a layer above")
                bad += 1
    return 1 if bad else 0


sys.exit(main())
