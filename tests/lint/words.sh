#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Nothing in the tree depends on, or speaks of, the machine it was written on.
bad=$(git grep -nIE '(/w[o]rk/|/r[o]ot/|/h[o]me/[a-z])' -- . || true)
if [ -n "$bad" ]; then
	echo "paths of a machine:" >&2
	echo "$bad" >&2
	exit 1
fi
