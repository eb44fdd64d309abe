#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What tapas does, shown on two hosts that are network namespaces of this machine: Linux's firewall decides, the
# service carries the bytes, between the hosts and within one, and nothing is left behind. Needs root; takes about a minute.
#   demo.sh        BUILD=DIR: where tapasd and tapas are (default: build/ of this tree)
set -u
here=$(cd "$(dirname "$0")" && pwd)
BUILD=${BUILD:-$here/../build}
id=$$
S=tapasdemo${id}s C=tapasdemo${id}c     # the host with the service, and its clients
L=tapasdemo${id}l K=tapasdemo${id}k     # the same two without the service, to compare
NET=10.78.1
SERVER=$NET.1 GOOD=$NET.2 BAD=$NET.3
ROUNDS=${ROUNDS:-3} REQUESTS=${REQUESTS:-100000}
LOCAL_ROUNDS=2 LOCAL_REQUESTS=$((REQUESTS / 2)) LOCAL_PORT=6380
tmp=$(mktemp -d /tmp/tapas-demo.XXXXXX)
chmod 755 "$tmp"
export TAPAS_SOCKET=$tmp/tapasd.sock
pids=() bad=0
cpus=$(nproc) server_cpu=1
[ "$cpus" -gt 1 ] || server_cpu=0

if [ -t 1 ]; then bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' dim=$'\e[2m' off=$'\e[0m'; else bold='' green='' red='' dim='' off=''; fi
say() { printf '%s\n' "$*"; }
step() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }
show() { printf '%s  $ %s%s\n' "$dim" "$*" "$off"; }
good() { printf '  %sok%s  %s\n' "$green" "$off" "$*"; }
fail() {
	bad=$((bad + 1))
	printf '  %sNO%s  %s\n' "$red" "$off" "$*"
}
quote() { sed 's/^/      /'; }

in_ns() { ip netns exec "$@"; }

cleanup() {
	local p ns
	trap - EXIT INT TERM HUP
	for p in "${pids[@]}"; do kill "$p" 2>/dev/null; done
	sleep 0.3
	for ns in "$S" "$C" "$L" "$K"; do
		for p in $(ip netns pids "$ns" 2>/dev/null); do kill -9 "$p" 2>/dev/null; done
	done
	wait 2>/dev/null
	for ns in "$S" "$C" "$L" "$K"; do ip netns del "$ns" 2>/dev/null; done
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# A background program of the demo: spawn NAMESPACE LOG COMMAND...; its id is in $spawned.
spawn() {
	local ns=$1 log=$2
	shift 2
	ip netns exec "$ns" "$@" >"$log" 2>&1 </dev/null &
	spawned=$!
	pids+=("$spawned")
}

# until_true SECONDS COMMAND...
until_true() {
	local n=$(($1 * 20))
	shift
	while ! "$@" >/dev/null 2>&1; do
		n=$((n - 1))
		[ $n -gt 0 ] || return 1
		sleep 0.05
	done
}

pair() { # pair SERVER_NS CLIENT_NS
	ip netns add "$1" && ip netns add "$2" || exit 1
	ip link add nic0 netns "$1" type veth peer name peer0 netns "$2" || exit 1
	in_ns "$1" ethtool -K nic0 tx off tso off gso off gro off >/dev/null 2>&1
	in_ns "$2" ethtool -K peer0 tx off tso off gso off gro off >/dev/null 2>&1
	in_ns "$1" tc qdisc replace dev nic0 root pfifo limit 10000
	in_ns "$2" tc qdisc replace dev peer0 root pfifo limit 10000
	ip -n "$1" link set lo up
	ip -n "$1" link set nic0 up
	ip -n "$2" link set peer0 up
	ip -n "$1" addr add $SERVER/24 dev nic0
	ip -n "$2" addr add $GOOD/24 dev peer0
	ip -n "$2" addr add $BAD/24 dev peer0
	# on veth the receive work runs on the sender's core; a fair kernel server gets it on its own (RPS)
	in_ns "$1" sh -c "printf '%x' $((1 << server_cpu)) > /sys/class/net/nic0/queues/rx-0/rps_cpus"
}

firewall() { # policy: drop; redis for one client only
	in_ns "$1" nft -f - <<RULES
table inet demo {
	chain input {
		type filter hook input priority 0; policy drop;
		iif "lo" accept
		ip saddr $GOOD tcp dport 6379 counter accept
		ip saddr $GOOD icmp type echo-request accept
	}
}
RULES
}

# tcp_try SOURCE: a client that connects from SOURCE and asks redis for a PONG
tcp_try() {
	in_ns "$C" timeout 5 python3 - "$1" "$SERVER" <<'PY'
import socket, sys
s = socket.socket()
s.settimeout(1)
s.bind((sys.argv[1], 0))
try:
    s.connect((sys.argv[2], 6379))
    s.sendall(b"PING\r\n")
    print("connected, and the server says", s.recv(64).decode().strip())
except OSError as e:
    print("no answer: %s" % e)
    sys.exit(1)
PY
}

start_service() { # start_service MODE
	cat >"$tmp/tapas.conf" <<CONF
[service]
interface = nic0
mode = $1
socket = $TAPAS_SOCKET
local = direct
group =
CONF
	[ "$1" = shared ] || printf '[exclusive]\ntap = tapas0\naddress = %s/24\n' $SERVER >>"$tmp/tapas.conf"
	spawn "$S" "$tmp/tapasd.log" taskset -c $server_cpu "$BUILD/tapasd" -c "$tmp/tapas.conf"
	service=$spawned
	if ! until_true 5 in_ns "$S" "$BUILD/tapas" status; then
		fail "tapasd did not start:"
		quote <"$tmp/tapasd.log"
		exit 1
	fi
}

start_redis() { # start_redis NAMESPACE ADDRESS PORT [tapas run]
	local ns=$1 addr=$2 port=$3 log=$tmp/redis-$1-$3.log
	shift 3
	spawn "$ns" "$log" taskset -c $server_cpu "$@" redis-server --port "$port" --bind "$addr" --save "" \
		--appendonly no --protected-mode no
	if ! until_true 10 grep -q "Ready to accept" "$log"; then
		fail "redis-server did not start:"
		tail -5 "$log" | quote
		exit 1
	fi
}

stop() { # stop PID: and wait until it is gone
	kill "$1" 2>/dev/null
	wait "$1" 2>/dev/null
}

bench() { # bench CLIENT_NS ADDRESS PORT REQUESTS [tapas run] -> "SET GET" requests per second
	local ns=$1 addr=$2 port=$3 n=$4
	shift 4
	in_ns "$ns" timeout 60 taskset -c 0 "$@" redis-benchmark -h "$addr" -p "$port" -t set,get -n "$n" -c 50 --csv \
		2>/dev/null | awk -F'"' '/^"(SET|GET)"/ { printf "%d ", $4 }'
}

median() { printf '%s\n' "$@" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

look_at_flows() { # look_at_flows FILE: true if any is FAST
	in_ns "$S" "$BUILD/tapas" flows | head -8 >"$1"
	grep -q FAST "$1"
}

compare() { # compare FLOWS LINUX TAPAS ROUNDS: the two arrays of bench's arguments in turn; `tapas flows` meanwhile
	local flows=$1 rounds=$4 r a b c d looker ls=() lg=() ts=() tg=()
	local -n linux_args=$2 tapas_args=$3
	printf '  %-7s %12s %12s %12s %12s\n' "" "Linux SET" "tapas SET" "Linux GET" "tapas GET"
	for ((r = 1; r <= rounds; r++)); do
		read -r a b <<<"$(bench "${linux_args[@]}")"
		if [ "$r" = 1 ]; then
			(
				sleep 0.3
				until_true 2 look_at_flows "$flows"
			) &
			looker=$!
		fi
		read -r c d <<<"$(bench "${tapas_args[@]}")"
		[ "$r" != 1 ] || wait $looker
		printf '  round %d %12s %12s %12s %12s   requests/s\n' "$r" "${a:-?}" "${c:-?}" "${b:-?}" "${d:-?}"
		ls+=("${a:-0}") lg+=("${b:-0}") ts+=("${c:-0}") tg+=("${d:-0}")
	done
	awk -v a="$(median "${ls[@]}")" -v b="$(median "${ts[@]}")" -v c="$(median "${lg[@]}")" -v d="$(median "${tg[@]}")" '
		BEGIN { if (a > 0 && c > 0) printf "  medians: SET %.2f times Linux, GET %.2f times Linux\n", b / a, d / c }'
}

# pings NAMESPACE SOURCE SERVER PORT [tapas run]: asks redis again and again for a PONG, on one connection, in the background
pings() {
	local ns=$1 source=$2 server=$3 port=$4
	shift 4
	in_ns "$ns" timeout 20 "$@" python3 - "$source" "$server" "$port" "$tmp/pings" <<'PY' &
import socket, sys, time
s = socket.socket()
s.bind((sys.argv[1], 0))
s.connect((sys.argv[2], int(sys.argv[3])))
s.settimeout(10)
out = open(sys.argv[4], "w")
end = time.time() + 4.5
while time.time() < end:
    s.sendall(b"PING\r\n")
    if s.recv(64) != b"+PONG\r\n":
        break
    out.write("%.6f\n" % time.time())
    out.flush()
    time.sleep(0.005)
out.write("%s\n" % "same connection")
out.close()
PY
	pinger=$!
	pids+=("$pinger")
	sleep 1
}

# rule_bites PATTERN RULE...: the rule is put before the server's others for a second; what pings() wrote is judged
rule_bites() {
	local pattern=$1 handle t_drop t_gone word rest
	shift
	show "nft insert rule inet demo input $*"
	handle=$(in_ns "$S" nft -e -a insert rule inet demo input "$@" | sed -n 's/.*# handle //p')
	t_drop=$(date +%s.%N)
	sleep 1
	in_ns "$S" "$BUILD/tapas" flows | grep -E "STATE|$pattern" | head -3 | quote
	show "nft delete rule ...         (one second later)"
	in_ns "$S" nft delete rule inet demo input handle "$handle"
	t_gone=$(date +%s.%N)
	wait "$pinger"
	awk -v d="$t_drop" -v g="$t_gone" '
		/^[0-9]/ { if ($1 <= g - 0.001) last = $1; else if (!first) first = $1; n++ }
		/^same/ { same = 1 }
		END {
			quiet = last && last - d < 0.1
			printf "%s last answer %.1f ms after the rule, then silence both ways (%s)\n", quiet ? "ok" : "NO", (last - d) * 1e3, "Linux would drop it, so does tapas"
			printf "%s first answer %.0f ms after its removal, on the same connection\n", first && same ? "ok" : "NO", (first - g) * 1e3
		}' "$tmp/pings" >"$tmp/verdict"
	while read -r word rest; do if [ "$word" = ok ]; then good "$rest"; else fail "$rest"; fi; done <"$tmp/verdict"
}

# Both ends on one host, once on plain Linux, once both under the library.
within_one_host() {
	# shellcheck disable=SC2034 # compare() has them by name
	local plain=("$L" 127.0.0.1 "$LOCAL_PORT" "$LOCAL_REQUESTS")
	# shellcheck disable=SC2034
	local carried=("$S" 127.0.0.1 "$LOCAL_PORT" "$LOCAL_REQUESTS" "$BUILD/tapas" run)
	start_redis "$L" 127.0.0.1 $LOCAL_PORT
	start_redis "$S" 127.0.0.1 $LOCAL_PORT "$BUILD/tapas" run
	show "tapas run redis-server --port $LOCAL_PORT --bind 127.0.0.1"
	show "tapas run redis-benchmark -h 127.0.0.1 -p $LOCAL_PORT"
	compare "$tmp/flows-local" plain carried $LOCAL_ROUNDS
	show "tapas flows"
	quote <"$tmp/flows-local"
	if grep FAST "$tmp/flows-local" | grep -q "127.0.0.1:$LOCAL_PORT"; then
		good "both ends are FAST: the bytes go through memory"
	else
		fail "no FAST connection within the host seen"
	fi
	pings "$S" 127.0.0.1 127.0.0.1 $LOCAL_PORT "$BUILD/tapas" run
	rule_bites ":$LOCAL_PORT" iif lo tcp dport $LOCAL_PORT drop
}

[ "$(id -u)" = 0 ] || { say "demo.sh: needs root (network namespaces)"; exit 1; }
for tool in tapasd tapas; do
	[ -x "$BUILD/$tool" ] || { say "demo.sh: $BUILD/$tool is missing: run make first"; exit 1; }
done

step "1. Two hosts: a server with a firewall, and clients"
pair "$S" "$C"
pair "$L" "$K"
firewall "$S"
firewall "$L"
say "  the server's rules (nft): everything is dropped, except redis (port 6379) for the client $GOOD"

step "2. The service, and redis under it"
start_service shared
show "tapasd -c tapas.conf        (interface = nic0)"
start_redis "$S" $SERVER 6379 "$BUILD/tapas" run
show "tapas run redis-server --port 6379"
start_redis "$L" $SERVER 6379
say "  redis-server is the distribution's, unchanged. Beside it, on an equal pair of hosts, the same on plain Linux."

step "3. Linux decides who may connect"
if out=$(tcp_try $BAD); then fail "the denied client $BAD: $out"; else good "the denied client   $BAD: $out (dropped by Linux's rule: silence)"; fi
if out=$(tcp_try $GOOD); then good "the admitted client $GOOD: $out"; else fail "the admitted client $GOOD: $out"; fi

step "4. tapas moves the bytes: redis-benchmark, 50 connections, $REQUESTS requests, in turn"
# shellcheck disable=SC2034 # compare() has them by name
on_linux=("$K" "$SERVER" 6379 "$REQUESTS") on_tapas=("$C" "$SERVER" 6379 "$REQUESTS")
compare "$tmp/flows" on_linux on_tapas "$ROUNDS"
say "  (the server's receive work runs on its own core in both cases: RPS for Linux; two cores in all)"

step "5. What the service saw during the run"
show "tapas flows"
quote <"$tmp/flows"
if grep -q FAST "$tmp/flows"; then good "the connections are FAST: their bytes pass Linux's TCP by"; else fail "no FAST connection seen"; fi

step "6. A rule that appears on a live connection"
pings "$C" $GOOD $SERVER 6379
rule_bites MUTED tcp dport 6379 drop

step "7. Within one host: redis and redis-benchmark on 127.0.0.1, $LOCAL_REQUESTS requests, in turn"
within_one_host

step "8. Exclusive mode: Linux's interface is the TAP; ARP and handshakes pass it"
for p in $(ip netns pids "$S"); do [ "$p" = "$service" ] || kill "$p" 2>/dev/null; done
stop "$service"
sleep 0.3
ip -n "$S" addr flush dev nic0
start_service exclusive
show "ip -br addr                 (on the server: the address is the TAP's, nic0 has none)"
ip -n "$S" -br addr | grep -v '^lo' | quote
start_redis "$S" $SERVER 6379 "$BUILD/tapas" run
# one line a packet, while the two clients connect. Their host has to ask for the server's link-layer address, unless the
# server asks first: either way one asks and the other answers
spawn "$S" "$tmp/tap.txt" timeout 30 tcpdump -i tapas0 -n -l --immediate-mode \
	'arp or (tcp port 6379 and tcp[tcpflags] & tcp-syn != 0)'
dump=$spawned
until_true 5 grep -q "listening on" "$tmp/tap.txt" || fail "tcpdump did not start"
ip -n "$C" neigh flush all
if out=$(tcp_try $BAD); then fail "the denied client: $out"; else good "the denied client: $out"; fi
if out=$(tcp_try $GOOD); then good "the admitted client: $out"; else fail "the admitted client: $out"; fi
until_true 3 grep -q 'Flags \[S\.\]' "$tmp/tap.txt"
stop "$dump"
show "tcpdump -i tapas0 'arp or tcp-syn'"
{ grep 'ARP, ' "$tmp/tap.txt" | head -2; grep 'Flags \[S' "$tmp/tap.txt" | cut -c1-100 | head -4; } | quote
if grep -q 'ARP, Request' "$tmp/tap.txt" && grep -q 'ARP, Reply' "$tmp/tap.txt"; then good "ARP was asked and answered by Linux, through the TAP"; else fail "no ARP on the TAP"; fi
if grep -q 'Flags \[S\.\]' "$tmp/tap.txt"; then good "SYN and SYN-ACK were Linux's, through the TAP"; else fail "no handshake on the TAP"; fi
read -r a b <<<"$(bench "$K" $SERVER 6379 "$REQUESTS")"
read -r c d <<<"$(bench "$C" $SERVER 6379 "$REQUESTS")"
say "  redis-benchmark once more: Linux SET ${a:-?} GET ${b:-?}, tapas in exclusive mode SET ${c:-?} GET ${d:-?} requests/s"

step "9. Stop"
for p in $(ip netns pids "$S"); do [ "$p" = "$service" ] || kill "$p" 2>/dev/null; done
sleep 0.2
show "systemctl stop tapasd       (here: SIGTERM)"
stop "$service"
nothing_left() { ! ip -n "$S" link | grep -qE 'tapas0|xdp'; }
until_true 2 nothing_left # the kernel takes the TAP away some milliseconds after the process
ip -n "$S" -br link | quote
if nothing_left; then good "no TAP, no XDP program, no rule of ours is left"; else fail "something is left on the server"; fi

step "$([ $bad = 0 ] && say "All as it should be." || say "$bad of the above went wrong.")"
exit $((bad > 0))
