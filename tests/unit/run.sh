#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Run the unit tests given as arguments, one after another; say what failed, and count the cases.
passed=0 failed=0 skipped=0 bad=""
for t in "$@"; do
	name=$(basename "$t")
	out=$(CMOCKA_MESSAGE_OUTPUT=TAP timeout 240 "$t" 2>&1)
	rc=$?
	p=$(printf '%s\n' "$out" | grep -c '^ok ' || true)
	f=$(printf '%s\n' "$out" | grep -c '^not ok ' || true)
	s=$(printf '%s\n' "$out" | grep -ci '^ok .*# skip\|^not ok .*# skip' || true)
	passed=$((passed + p - s))
	skipped=$((skipped + s))
	failed=$((failed + f))
	printf '  %-22s %3d passed%s%s\n' "$name" $((p - s)) "$([ "$s" -gt 0 ] && echo ", $s skipped")" \
		"$([ "$f" -gt 0 ] && echo ", $f FAILED")"
	if [ $rc -ne 0 ] && { [ "$f" -gt 0 ] || [ "$s" -eq 0 ] || [ $rc -gt 100 ]; }; then
		[ "$f" -gt 0 ] || failed=$((failed + 1))
		bad="$bad $name"
		printf '%s\n' "$out" | grep -v '^ok ' | tail -40
	fi
done
echo "unit: $passed passed, $failed failed, $skipped skipped"
if [ -n "$bad" ]; then
	echo "failed:$bad"
	exit 1
fi
