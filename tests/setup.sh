#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Everything that building, testing, the demo and the bench need, from Debian's own packages. Does
# nothing, and needs no network, when all of it is there.
set -eu
packages="make gcc clang clang-format-14 llvm libclang-rt-14-dev bpftool pkg-config git cppcheck mandoc
	libc6-dev linux-libc-dev libbpf-dev libxdp-dev liburing-dev libmnl-dev libnftnl-dev libinih-dev libjansson-dev
	libsystemd-dev libcap-ng-dev libpcap-dev libcmocka-dev
	spin python3 python3-pytest python3-scapy iproute2 nftables conntrack ethtool tcpdump procps
	redis-server redis-tools memcached nginx-light curl iputils-ping
	haproxy apache2 apache2-utils wrk iperf3 postgresql mariadb-server nodejs openjdk-17-jdk-headless rsync
	openssh-server openssh-client openssl socat git perl file bc libpython3.11-testsuite"
missing=""
for p in $packages; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)
	[ "$status" = installed ] && continue
	# another flavour of nginx does as well
	[ "$p" = nginx-light ] && command -v nginx >/dev/null 2>&1 && continue
	missing="$missing $p"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "tests/setup.sh: these packages are missing:$missing; run it as root" >&2
	exit 1
fi
echo "installing:$missing"
# servers that packages start by themselves are not wanted here
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
	trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
