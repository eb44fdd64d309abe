/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every counter of the service, declared once: id, name as `tapas stats` shows it, help.
 * Each thread counts into its own struct counters (one writer, relaxed atomics); readers
 * add them up.
 */
#ifndef SERVICE_BASE_COUNTERS_H
#define SERVICE_BASE_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

#define COUNTER_LIST(X)                                                                        \
	/* fast path */                                                                        \
	X(RX_FRAMES, "rx_frames", "frames taken from AF_XDP")                                  \
	X(TX_FRAMES, "tx_frames", "frames given to AF_XDP")                                    \
	X(RX_BYTES, "rx_bytes", "payload bytes delivered in order to applications")            \
	X(TX_BYTES, "tx_bytes", "payload bytes sent on the wire, first transmissions only")    \
	X(ACKED_BYTES, "acked_bytes", "payload bytes acknowledged by peers")                   \
	X(RX_OOO, "rx_out_of_order", "segments received out of order and kept")                \
	X(RX_DUP, "rx_duplicate", "segments that brought nothing new")                         \
	X(REXMIT_FAST, "rexmit_fast", "fast retransmits (three duplicate ACKs)")               \
	X(REXMIT_TIMEOUT, "rexmit_timeout", "retransmission time-outs")                        \
	X(REXMIT_SEGMENTS, "rexmit_segments", "segments sent again")                           \
	X(PROBE_ZERO_WINDOW, "probe_zero_window", "zero-window probes sent")                   \
	X(ACK_SENT, "ack_sent", "segments without payload sent")                               \
	X(ACK_CHALLENGE, "ack_challenge", "challenge ACKs sent (RFC 5961)")                    \
	X(ECN_CE, "ecn_ce", "segments received with CE")                                       \
	X(RX_URG, "rx_urgent", "segments with URG that sent a connection to Linux")            \
	X(LOCAL_BYTES, "local_bytes", "payload bytes from one local end to the other")         \
	/* drops, each with a named reason */                                                  \
	X(DROP_PARSE, "drop_parse", "frames that the parser refused")                          \
	X(DROP_MAC, "drop_mac", "frames of a flow, but for another MAC address")               \
	X(DROP_CSUM, "drop_checksum", "segments with a wrong checksum")                        \
	X(DROP_WINDOW, "drop_window", "segments outside the receive window")                   \
	X(DROP_PAWS, "drop_paws", "segments with an old timestamp (RFC 7323)")                 \
	X(DROP_ACK, "drop_ack", "segments acknowledging what was never sent")                  \
	X(DROP_OOO, "drop_out_of_order", "out-of-order segments beyond the intervals kept")    \
	X(DROP_BUFFER, "drop_buffer", "segments that did not fit the receive buffer")          \
	X(DROP_MUTED, "drop_muted", "segments of flows that Linux does not let pass")          \
	X(DROP_URGENT, "drop_urgent", "segments with URG while it could not be given back")    \
	X(DROP_RESET, "drop_reset", "resets of Linux's that are not the connection's")         \
	X(DROP_UP_FULL, "drop_up_full", "frames lost because the slow path was behind")        \
	X(DROP_TX_FULL, "drop_tx_full", "frames not sent: the transmit ring was full")         \
	X(CAPTURE_LOST, "capture_lost", "frames that a running capture missed")                \
	/* applications */                                                                     \
	X(APP_WAKE, "app_wake", "wake-ups of applications")                                    \
	X(APP_BAD_RECORD, "app_bad_record", "records from applications that failed the check") \
	X(FAST_SLEEP, "fast_sleep", "times a fast thread went to sleep")                       \
	/* slow path and shadow */                                                             \
	X(ADOPTED, "adopted", "connections adopted")                                           \
	X(ADOPT_REFUSED, "adopt_refused", "adoptions refused before anything was touched")     \
	X(ADOPT_ROLLED_BACK, "adopt_rolled_back", "adoptions rolled back")                     \
	X(RETURNED, "returned", "connections given back to Linux")                             \
	X(RETURN_FAILED, "return_failed", "connections lost while being given back")           \
	X(MOVED, "moved", "connections taken over by another process")                         \
	X(LOCAL_PAIRS, "local_pairs", "connections adopted at both their local ends")          \
	X(FLOW_CLOSED, "flow_closed", "FAST flows that ended")                                 \
	X(FLOW_RESET, "flow_reset", "FAST flows that ended by RST")                            \
	X(HEARTBEAT_SENT, "heartbeat_sent", "heartbeats injected")                             \
	X(HEARTBEAT_ACK, "heartbeat_ack", "heartbeats that Linux answered: accepted")          \
	X(HEARTBEAT_RST, "heartbeat_rst", "heartbeats answered by RST: rejected or killed")    \
	X(HEARTBEAT_SILENT, "heartbeat_silent", "heartbeats without an answer")                \
	X(SILENCED, "muted", "times a flow was silenced by Linux's verdict")                   \
	X(UNMUTED, "unmuted", "times a silenced flow was let go on")                           \
	X(TAP_RX, "tap_rx", "frames read from the TAP")                                        \
	X(TAP_TX, "tap_tx", "frames written to the TAP")                                       \
	X(TAP_TX_LOST, "tap_tx_lost", "frames that could not be written to the TAP")           \
	X(RELAY_TO_LINUX, "relay_to_linux", "exclusive mode: frames relayed from the wire")    \
	X(RELAY_TO_WIRE, "relay_to_wire", "exclusive mode: frames relayed to the wire")        \
	X(SHADOW_STRAY, "shadow_stray", "payload that left a shadow socket by itself")         \
	X(SHADOW_SLIPPED, "shadow_slipped", "payload that reached a socket just adopted")      \
	X(APP_CONNECTED, "app_connected", "applications that registered")                      \
	X(APP_DISCONNECTED, "app_disconnected", "applications disconnected for bad input")     \
	X(XDP_ATTACH, "xdp_attach", "times XDP was attached for a first connection")           \
	X(XDP_DETACH, "xdp_detach", "times XDP was detached because there was none")           \
	X(LINUX_CHANGE, "linux_change", "notified changes of rules, routes, addresses, neighbours")

enum counter_id {
#define X(id, name, help) CNT_##id,
	COUNTER_LIST(X)
#undef X
		CNT_COUNT
};

struct counters {
	_Atomic uint64_t v[CNT_COUNT];
};

extern const char *const counter_names[CNT_COUNT];
extern const char *const counter_help[CNT_COUNT];

/* One writer per struct: a plain add, made visible to readers of other threads. */
static inline void counter_add(struct counters *c, enum counter_id id, uint64_t n)
{
	uint64_t v = atomic_load_explicit(&c->v[id], memory_order_relaxed);

	atomic_store_explicit(&c->v[id], v + n, memory_order_relaxed);
}

static inline uint64_t counter_get(const struct counters *c, enum counter_id id)
{
	return atomic_load_explicit(&c->v[id], memory_order_relaxed);
}

#endif
