#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# One command from a fresh machine: installs what is missing (even make), builds, and runs.
#   sudo sh tests/run.sh demo | check | bench
set -eu
case "${1:-}" in
demo | check | bench) ;;
*)
	echo "usage: sudo sh tests/run.sh demo|check|bench" >&2
	exit 2
	;;
esac
if [ "$(id -u)" != 0 ]; then
	echo "tests/run.sh: root is needed for network namespaces: sudo sh tests/run.sh $1" >&2
	exit 1
fi
cd "$(dirname "$0")/.."
sh tests/setup.sh
exec make -s -j"$(nproc)" "$1"
