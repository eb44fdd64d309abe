/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The shadow: how tapas asks Linux. It knows sockets, the TAP, netlink and frames; it does
 * not know flows, applications or fast threads. Main thread only; nothing here blocks.
 *
 * The shadow of a FAST connection is its kernel socket, asleep in ESTABLISHED in a sequence
 * space of its own that stands still: rcv_nxt and snd_nxt are what they were at adoption
 * (plus one for a FIN that was mirrored). Frames for Linux are built in that space and
 * written to the TAP; Linux's answers are read from it.
 */
#ifndef SHADOW_SHADOW_H
#define SHADOW_SHADOW_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "service/base/flow_key.h"
#include "service/loop/loop.h"
#include "service/tcp/counts.h"
#include "service/wire/build.h"
#include "service/wire/parse.h"

/* ---- the TAP ---- */

struct tap;

struct tap_config {
	const char *name; /* e.g. "tapas0" */
	uint8_t mac[6];   /* the NIC's: or Linux takes what is injected for another host's */
	uint32_t mtu;
	int nic_ifindex;              /* exclusive: `addresses` are taken off it; 0: no */
	bool exclusive;               /* the TAP is Linux's interface: ARP on, IPv6 on, `addresses` put on it */
	const char *const *addresses; /* exclusive: "10.0.0.1/24", NULL-terminated, may be NULL */
	const char *gateway;          /* exclusive: default route, may be NULL */
};

typedef void tap_frame_fn(void *ctx, const uint8_t *frame, uint32_t len);

/*
 * Make the TAP (non-persistent: it vanishes with the process), set it up, and start reading
 * through @loop: @cb gets every frame that Linux puts into it. @why: one line for people.
 */
int tap_open(const struct tap_config *cfg, struct loop *loop, tap_frame_fn *cb, void *ctx, struct tap **out, char *why,
	     unsigned why_size);
/* Who gets the frames; before tap_start(). */
void tap_set_receiver(struct tap *t, tap_frame_fn *cb, void *ctx);
/* tap_open() only creates; reading starts here (after the BPF links are in place). */
int tap_start(struct tap *t);
void tap_close(struct tap *t);
int tap_ifindex(const struct tap *t);
/* Hand a frame to Linux. Queued; written with the others of this turn. 0 or -ENOBUFS. */
int tap_write(struct tap *t, const void *frame, uint32_t len);
/*
 * Exclusive mode: put a mark into the TAP. When tap_is_mark() sees it among the frames read,
 * everything that Linux had sent before has been read. Returns 0 or -errno.
 */
int tap_mark(struct tap *t, uint64_t number);
bool tap_is_mark(const uint8_t *frame, uint32_t len, uint64_t *number);
/* "10.0.0.1/24" on an interface, off it, and the default route by it. Return 0 or -errno. */
int address_add(int ifindex, const char *text);
int address_remove(int ifindex, const char *text);
int address_default_route(int ifindex, const char *gateway);
uint64_t tap_write_failures(const struct tap *t);

/* ---- the socket's half of adopt ---- */

/* Exact state of an established kernel connection, as read under TCP_REPAIR. Sequence numbers are the wire's at this moment. */
struct sock_state {
	struct flow_key key;
	uint64_t cookie;
	uint32_t rcv_nxt;
	uint32_t snd_una, snd_nxt, write_seq;  /* write_seq: end of the send queue; snd_nxt..write_seq not sent yet */
	uint32_t snd_wnd, snd_wl1, max_window; /* bytes */
	uint32_t rcv_wnd, rcv_wup;
	uint32_t rcv_queued; /* bytes waiting in the receive queue */
	uint16_t mss;
	uint8_t snd_wscale, rcv_wscale;
	bool ts, sack, ecn, wscale;
	uint32_t ts_now; /* socket's TSval clock, ms */
	uint32_t srtt_us, rttvar_us;
	char congestion[16];
	uint32_t sndbuf, rcvbuf; /* bytes that the program has asked for; 0: Linux's own tuning */
	uint64_t bytes_sent, bytes_acked, bytes_received; /* as TCP_INFO has them */
	struct tcp_counts counts;                         /* times in milliseconds before now */
	bool v6;                                          /* AF_INET6 socket (also for mapped addresses) */
	bool same_host;                                   /* the addresses alone say that both ends are here */
	uint32_t uid;
};

#define SOCK_BUF_LOCK 72 /* SO_BUF_LOCK: newer than some headers */
/* What tells sockets apart for as long as the host runs; 0: @fd is none. */
uint64_t sock_cookie(int fd);
/*
 * Is @fd an established TCP connection that may be adopted at all? Fills key, cookie, v6.
 * Returns 0, or an enum ipc_reason > 0 (service/ipc/abi.h) that says why not. Touches nothing.
 */
int sock_examine(int fd, struct sock_state *st);
/*
 * Attach the socket filter that lets only the shadow's own segments in: an empty segment,
 * FIN or RST at rcv_nxt or (after a mirrored FIN) rcv_nxt + 1, and one byte at rcv_nxt - 1.
 * It stays with the socket whatever becomes of us. Returns 0 or -errno.
 */
int sock_filter_attach(int fd, uint32_t rcv_nxt);
/*
 * A filter that takes everything: other processes see that the socket is not to be used (preload/share.c). Where that
 * needs a privilege that we do not have, IPC_TAKEN_HINT. Returns 0 or -errno.
 */
int sock_filter_attach_open(int fd);
int sock_filter_detach(int fd);
/* A filter that drops everything: for the moments before rcv_nxt is known. */
int sock_filter_attach_closed(int fd);
/* Does a process say that it uses the socket in the kernel, and may not be the only one that holds it (IPC_USED_BYTE)? */
bool sock_is_used(int fd);
/* Say that the socket is being made the connection again (IPC_RESTORED_BYTE), or that it is. @fd may be -1. */
void sock_restored_lock(int fd, bool on);
/*
 * Connections both ends of which are here (local.c). Into @st what is used of one: MSS, RTT, and the sizes of the
 * buffers as far as its program has set them. Returns 0, or -EBADFD: it is not ESTABLISHED.
 */
int sock_local_examine(int fd, struct sock_state *st);
enum sock_end {
	SOCK_END_OPEN,
	SOCK_END_STRAY, /* open, and with bytes in its receive queue */
	SOCK_END_SHUT,  /* its FIN has been sent, somebody holds it */
	SOCK_END_LEFT,  /* nobody holds it */
	SOCK_END_OVER,  /* both FINs are done: TIME_WAIT, and whether anybody holds the socket is not known */
	SOCK_END_GONE,  /* Linux does not know the connection any more: reset, or as SOCK_END_OVER at the other end */
};
enum sock_end sock_end_look(const struct flow_key *key, uint64_t cookie);
/* Returns bytes that the socket has taken, 0: it is full, or -errno. Does not wait. */
ssize_t sock_local_write(int fd, const struct iovec *iov, int cnt);
/* The same, with a send buffer that is large enough for all of it meanwhile, if this process may make it so. */
ssize_t sock_local_write_all(int fd, const struct iovec *iov, int cnt);
/* Was it shut down for reading, in TCP state @state? After the peer's FIN nobody can tell: false. */
bool sock_local_is_shut_rd(int fd, int state);
/* Is an error pending that nobody has taken? */
bool sock_has_error(int fd);
/* Ends the connection of @fd with a reset, as far as Linux has any. Needs no privilege. */
void sock_local_reset(int fd);
/* Takes what is in its receive queue: *@out is the caller's to free. Returns bytes or -ENOMEM. */
int sock_local_strays(int fd, uint8_t **out);
/* The size of a buffer (SO_SNDBUF, SO_RCVBUF), twice what the program asked for; 0: it has not, Linux tunes it. */
int sock_buffer_set(int fd, int name);
/*
 * Read the exact state. Enters TCP_REPAIR, reads, leaves it without a probe (TCP_REPAIR_OFF_NO_WP),
 * restores SO_REUSEADDR. On error the socket is out of repair mode. Returns 0, reason > 0 or -errno.
 */
int sock_state_read(int fd, struct sock_state *st);
/*
 * Copy, without removing, the receive queue (@len = st->rcv_queued bytes) or the whole send
 * queue (@len = write_seq - snd_una bytes) to a circular buffer of @size bytes from offset 0
 * on. Returns 0 or -errno (-EAGAIN: the queue changed meanwhile).
 */
int sock_peek_received(int fd, uint8_t *buf, uint32_t size, uint32_t len);
int sock_peek_unacked(int fd, uint8_t *buf, uint32_t size, uint32_t len);
/* After commit: throw away @len bytes of the receive queue that were copied. */
int sock_discard_received(int fd, uint32_t len);
/* Make Linux speak once: leaving TCP_REPAIR sends a window probe. */
int sock_make_speak(int fd);
/* A duplicate of descriptor @fd of process @pid, checked to be the socket with @cookie. Needs CAP_SYS_PTRACE. fd or -errno. */
int sock_fetch(pid_t pid, int fd, uint64_t cookie);
/*
 * The same when it is not known who holds it: every process is asked for a descriptor of this very socket, @pid
 * first. Slow. fd or -errno.
 */
int sock_fetch_any(pid_t pid, const struct flow_key *key, uint64_t cookie);
/* Drop the kernel socket of a connection that no process holds. Returns 0, also if there is none, or -errno. */
int sock_destroy(const struct flow_key *key);
/*
 * Close the kernel socket with that cookie, whoever holds it, as a reset does; its peer gets one. Needs CAP_NET_ADMIN.
 * Returns 0, also if there is none, or -errno.
 */
int sock_reset(const struct flow_key *key, uint64_t cookie);
/* Ask sock_diag about a connection: 1 if it exists and no process holds it (orphan or gone), 0 if held, -errno. */
int sock_is_orphan(const struct flow_key *key);

/* ---- the socket's half of return ---- */

/* @len bytes of a circular buffer of @size bytes (a power of two), from stream offset @off on. */
struct byte_range {
	const uint8_t *buf;
	uint64_t off;
	uint32_t size, len;
};

/* A connection as it is on the wire now. Sequence numbers are the wire's. */
struct sock_rebuild {
	struct flow_key key;
	bool v6;                            /* AF_INET6 socket */
	uint32_t snd_una;                   /* of the first byte of `sent`, or of `unsent` */
	uint32_t rcv_nxt;                   /* after `unread`, not counting a FIN */
	uint32_t rcv_wnd;                   /* bytes from rcv_nxt on that were promised to the peer */
	uint32_t snd_wnd, max_wnd, snd_wl1; /* bytes; wire sequence */
	bool echo;          /* one byte before snd_una counts as just sent; the caller acknowledges it an RTT later */
	uint32_t mss_clamp; /* the peer's MSS option; 0: the socket still knows */
	uint8_t snd_wscale, rcv_wscale;
	bool wscale, ts, sack;                         /* negotiated */
	uint32_t ts_now;                               /* our TSval, ms */
	struct byte_range unread, sent, unsent, stray; /* stray: after unsent */
	bool closing;                                  /* our FIN follows the last byte */
	bool fin_sent;                                 /* and the peer has been sent it; nothing is unsent */
	/* out, for sock_resume(): SO_REUSEADDR as it was, and sock_buffer_set() of both buffers */
	int reuse, sndbuf, rcvbuf;
};

/*
 * Rebuild the connection in @fd, silently; it stays in repair mode. The caller still holds the tuple in the map of flows
 * and has taken the socket filter off. Returns 0 or -errno: then the socket is closed or
 * half built, and only a reset is left. May be done once more before sock_resume(), which undoes what was done to the
 * socket since.
 */
int sock_rebuild(int fd, struct sock_rebuild *r);
/* Have we the privilege for that? */
bool sock_may_rebuild(int fd);
/* Leave repair mode, write what was never sent, then shut down if r->closing. The tuple is Linux's now. Returns 0 or -errno. */
int sock_resume(int fd, const struct sock_rebuild *r);
/* What Linux calls TCP_ESTABLISHED, ... (its headers are at odds with each other). */
enum sock_tcp_state {
	TCP_STATE_ESTABLISHED = 1,
	TCP_STATE_FIN_WAIT1 = 4,
	TCP_STATE_FIN_WAIT2 = 5,
	TCP_STATE_TIME_WAIT = 6,
	TCP_STATE_CLOSE = 7,
	TCP_STATE_CLOSE_WAIT = 8,
	TCP_STATE_LAST_ACK = 9,
	TCP_STATE_CLOSING = 11,
};
/* The TCP state of the kernel socket, or -errno. */
int sock_tcp_state(int fd);
/* Has the kernel socket, since it was rebuilt, seen an acknowledgement of anything? True also if that cannot be asked. */
bool sock_has_acked(int fd);
/*
 * Payload that the shadow holds unacknowledged after @from (its sequence space): what somebody wrote to
 * the kernel socket. Copied to a malloc'd buffer *@out, the caller's to free. Returns bytes, 0 or -errno.
 */
int sock_peek_stray(int fd, uint32_t from, uint8_t **out);
/* Mark the connection's conntrack entry liberal: it has not seen the data. 0, also if there is none, or -errno. */
int conntrack_liberal(const struct flow_key *key);

/* ---- segments in the shadow's space ---- */

struct shadow_seq {
	struct flow_key key; /* local = this host */
	uint8_t nic_mac[6], peer_mac[6];
	uint32_t rcv_nxt, snd_nxt; /* the shadow's; snd_una for heartbeats before commit */
	bool has_window;           /* `window`, not scaled, is the peer's; else one is made up */
	uint16_t window;
	bool has_ts; /* with tsval and tsecr; only what comes from the peer itself, for a rebuilt socket */
	uint32_t tsval, tsecr;
	uint16_t vary; /* makes the window field differ each time, so that conntrack sees no repeats */
};

/* Each builds one frame from the peer to Linux into @buf (at least 128 bytes) and returns its length. */
uint32_t shadow_heartbeat(struct shadow_seq *s, uint8_t *buf); /* one old byte at rcv_nxt - 1 */
uint32_t shadow_ack(struct shadow_seq *s, uint8_t *buf, uint32_t ack);
uint32_t shadow_fin(struct shadow_seq *s, uint8_t *buf); /* at rcv_nxt; the caller then adds one to rcv_nxt */
/* The peer's data @offset bytes after rcv_nxt; @buf has room for WIRE_HDR_MAX more than @len bytes. */
uint32_t shadow_data(struct shadow_seq *s, uint8_t *buf, uint32_t offset, const uint8_t *payload, uint32_t len);
/* @offset: where the wire RST lay relative to the wire's rcv_nxt. */
uint32_t shadow_rst(struct shadow_seq *s, uint8_t *buf, int32_t offset);
/*
 * Rewrite the quoted TCP sequence number of an ICMP error frame (copied to @buf, at most
 * @size) into the shadow's space. @wire_una: snd_una on the wire. Returns length or 0 if it does not fit.
 */
uint32_t shadow_icmp(struct shadow_seq *s, uint8_t *buf, uint32_t size, const uint8_t *frame, uint32_t len,
		     uint32_t wire_una);

/* What a frame of a shadow, read from the TAP, says. */
enum shadow_says {
	SHADOW_ACK, /* empty, at snd_nxt, acknowledging rcv_nxt: accepted */
	SHADOW_RST,
	SHADOW_FIN, /* with or without ACK; the sending side was closed */
	SHADOW_DATA, /* payload from before adoption (retransmission), or an empty segment at snd_nxt - 1 (keepalive, window
		       * probe): acknowledge it. No verdict: Linux sends it without having let anything in. */
	SHADOW_STRAY, /* payload at or after snd_nxt: somebody wrote to the kernel socket */
	SHADOW_MOVED, /* acknowledges something else than rcv_nxt: a wire byte entered before adoption */
	SHADOW_OTHER, /* SYN or nonsense */
};
/* Once a FIN of its own was seen, s->snd_nxt counts it. */
enum shadow_says shadow_classify(const struct shadow_seq *s, const struct segment *seg);
/* Copy next hop, TOS, TTL, flow label from a frame Linux sent. */
void shadow_template(const struct segment *seg, struct wire_template *t);

/* ---- changes in Linux ---- */

enum watch_what {
	WATCH_RULES, /* a ruleset commit (NFT_MSG_NEWGEN) */
	WATCH_ROUTE,
	WATCH_ADDRESS,
	WATCH_LINK,
	WATCH_NEIGHBOUR, /* addr, mac valid; mac all zero: unreachable */
	WATCH_CONNTRACK, /* key valid: this connection's entry was destroyed */
	WATCH_OVERFLOW,  /* notifications were lost: anything may have changed */
};
struct watch_event {
	enum watch_what what;
	int ifindex;
	struct ip_addr addr;
	uint8_t mac[6];
	struct flow_key key;
};
typedef void watch_fn(void *ctx, const struct watch_event *e);

struct watch;
/* libmnl sockets on nfnetlink (nftables, conntrack destroy) and rtnetlink groups. Returns 0 or -errno. */
int watch_open(struct loop *loop, watch_fn *cb, void *ctx, struct watch **out);
/*
 * Addresses alone and, if permitted, rules: what connections within the host need. watch_sees_rules(): it was permitted,
 * or there are none.
 */
int watch_open_local(struct loop *loop, watch_fn *cb, void *ctx, struct watch **out);
bool watch_sees_rules(const struct watch *w);
void watch_close(struct watch *w);

/* Is @a one of this host's own addresses (any interface)? Kept current by the watch. */
bool watch_is_local(const struct watch *w, const struct ip_addr *a);

#endif
