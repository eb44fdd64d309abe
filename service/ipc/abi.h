/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory that the service shares with one application. Both sides are built from this
 * file; IPC_ABI_VERSION changes with any change here.
 *
 * Pieces of memory, all made and sealed by the service:
 *   app memfd     struct ipc_app: slots, bells, contexts. Read-write for both.
 *   buffer memfd  payload. The service hands out pieces of it, a receive and a transmit
 *                 buffer per slot, each a power of two in size; byte at stream offset o
 *                 lives at piece + (o & (size - 1)).
 *   page memfd    struct ipc_page: read-only for applications, one for all of them.
 *   pair memfds   payload of local connections between two applications: as the buffer memfd, but each piece is the
 *                 transmit buffer of one and the receive buffer of the other one. Asked for by their id (REGION).
 *
 * A slot is one connection as the application sees it. The application picks a slot whose
 * status is reusable and names it in its ADOPT message; the service answers by writing the
 * slot's status. Stream positions are absolute 64-bit offsets that start at 0 at adoption
 * and never wrap; they only grow. Together the two offsets that each side writes are a
 * 16-byte record of which only the latest matters, and a bell (ipc/bell.h) says which slots
 * have one. Order between data, close and death is therefore never in doubt.
 *
 * The service never trusts a byte here: it copies a record once, checks the copy against
 * its own state (ipc_record_check) and never follows an index without a bound.
 */
#ifndef SERVICE_IPC_ABI_H
#define SERVICE_IPC_ABI_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "service/ipc/bell.h"

#define IPC_ABI_VERSION 9u
#define IPC_MAGIC 0x73617061u /* "apas" */

#define IPC_SLOTS BELL_MAX /* slots per application */
#define IPC_CONTEXTS 64    /* contexts (waiting places) per application */
#define IPC_THREADS 16     /* fast threads at most */
#define IPC_FLOWS 16384    /* flows at most */

/* Low byte of ipc_slot.status. */
enum ipc_state {
	IPC_FREE,     /* reusable */
	IPC_ADOPTING, /* set by the application together with its ADOPT message */
	IPC_FAST,     /* the service carries the bytes */
	IPC_REFUSED,  /* stays in Linux, `reason` tells why; reusable */
	IPC_RETURNED, /* given back to Linux, or moved to another process (`reason` is IPC_REASON_MOVED); reusable */
	IPC_DEAD,     /* the service has finished with it; reusable */
	IPC_PAUSED,   /* its record is closed (IPC_FROZEN): IPC_RETURNED, IPC_DEAD or IPC_FAST again will follow soon */
};
#define IPC_STATE(status) ((status)&0xffu)
/* Bits of ipc_slot.status beside the state. */
#define IPC_ST_FIN 0x100u       /* peer's FIN follows rcv_end */
#define IPC_ST_ERROR 0x200u     /* `error` is set; nothing more will arrive or be sent */
#define IPC_ST_MUTED 0x400u     /* Linux's rules let nothing pass at present */
#define IPC_ST_CLOSED_TX 0x800u /* our FIN has been queued: Linux closed the sending side */
#define IPC_ST_OVER 0x1000u     /* and both FINs are acknowledged: Linux knows no connection any more */
#define IPC_ST_RX_AWAY 0x2000u /* another process receives: rcv_read stays IPC_FROZEN, the receive buffer is not used */
#define IPC_ST_TX_AWAY 0x4000u /* another process sends: snd_end stays IPC_FROZEN, the transmit buffer is not used */
#define IPC_ST_PAIRED 0x8000u  /* local: the other end is FAST, too */

/*
 * The service closes a record for good by setting this bit in snd_end and rcv_read, and takes
 * what stood there as final. The application moves both by compare and exchange only, so a
 * byte is either counted before or, when the exchange fails, was not taken: it goes another way.
 */
#define IPC_FROZEN (1ull << 63)

/*
 * The two directions of a connection are independent of each other: two processes that hold the
 * same socket may have one each, in a slot of their own. What an ADOPT asks for, if the
 * connection is FAST in another process; a fresh adoption always gets both.
 */
#define IPC_HALF_RX 1u
#define IPC_HALF_TX 2u
#define IPC_HALVES (IPC_HALF_RX | IPC_HALF_TX)
#define IPC_AWAY(status) ((status) >> 13 & IPC_HALVES) /* the halves that are elsewhere */
static_assert(IPC_AWAY(IPC_ST_RX_AWAY) == IPC_HALF_RX && IPC_AWAY(IPC_ST_TX_AWAY) == IPC_HALF_TX, "one by one");
#define IPC_HALF_BACK 4u /* it was taken from here: to be had only if it was not used since; else the answer is Linux */

/* ipc_slot.want: what the application wants to be told, beside data and errors. */
#define IPC_WANT_SPACE 1u /* ring when snd_acked has freed a third of the transmit buffer */
/* ipc_slot.opts */
#define IPC_OPT_NODELAY 1u    /* TCP_NODELAY */
#define IPC_OPT_CORK 2u       /* TCP_CORK or MSG_MORE: hold back a partial segment (at most 200 ms) */
#define IPC_OPT_QUICKACK 4u   /* TCP_QUICKACK */
#define IPC_OPT_KEEPALIVE 8u  /* SO_KEEPALIVE */
#define IPC_OPT_LOWAT 16u     /* TCP_NOTSENT_LOWAT: ring for space, too, when little is unsent */
#define IPC_OPT_DRAINED 32u   /* local: nothing is read in the kernel any more */
#define IPC_OPT_SHUT_RD 64u   /* shut down for reading */
#define IPC_OPT_BROKEN 128u   /* local: its kernel socket had an error, which has been taken */
#define IPC_OPT_CHANGE 0x100u /* counted up in these bits when one of the numbers beside the record changes */
#define IPC_OPT_CHANGES 0xff00u
/* ipc_slot.timeouts */
#define IPC_PROBES (1u << 31)
/*
 * ipc_slot.busy, not part of the record: threads that are shutting the kernel socket down and have seen the slot FAST,
 * and, in these steps, one that copies into a transmit buffer which the other end reads.
 */
#define IPC_BUSY_COPY 0x10000u

struct ipc_slot {
	/* written by the application */
	_Alignas(64) _Atomic uint64_t snd_end; /* bytes put into the transmit buffer so far */
	_Atomic uint64_t rcv_read;             /* bytes taken out of the receive buffer so far */
	_Atomic uint32_t want;                 /* IPC_WANT_* */
	_Atomic uint32_t opts;                 /* IPC_OPT_* */
	_Atomic uint32_t context;              /* whose bell rings for this slot */
	_Atomic uint32_t fd_plus1;             /* its descriptor + 1, for reports; 0: not in use */
	_Atomic uint32_t busy; /* threads in shutdown(): not rebuilt under them, for a while; IPC_BUSY_COPY */
	/* beside the record, read when they are needed: TCP_USER_TIMEOUT (0: none), TCP_KEEP*, TCP_NOTSENT_LOWAT */
	_Atomic uint32_t user_timeout_ms, keep_idle_s, keep_intvl_s, keep_cnt, notsent_lowat;
	/*
	 * Low halves of snd_end and rcv_read when the process last forked, or got the connection: a direction that has
	 * not moved since may go to a process that needs the other one. Any value is a good one.
	 */
	_Atomic uint32_t mark_snd, mark_read;
	/* written by the service: fast thread */
	_Alignas(64) _Atomic uint64_t rcv_end; /* bytes put into the receive buffer so far */
	/*
	 * Bytes that the transmit buffer holds no longer: acknowledged by the peer, or, if it is the other end's receive
	 * buffer, too, read there. What has arrived there ipc_page.moved says.
	 */
	_Atomic uint64_t snd_acked;
	_Atomic uint32_t status; /* enum ipc_state | IPC_ST_* */
	_Atomic uint32_t error;  /* errno, if IPC_ST_ERROR */
	/* for TCP_INFO: when a segment, and when one with data, came last; milliseconds of CLOCK_MONOTONIC */
	_Atomic uint32_t heard_ms, received_ms;
	_Atomic uint32_t rto_us, rate_kbps;
	/* main thread: the other end of this refused, local connection asks now; cleared with the next ADOPT */
	_Atomic uint32_t invited;
	_Atomic uint32_t peer; /* local, fast thread: flow id of the other end, or IPC_SLOT_NONE */
	/* slow path, as rx_off: ids of the pair memfds where the buffers are; 0: in the buffer memfd */
	uint32_t rx_region, tx_region;
	/* written by the service: slow path, before status becomes IPC_FAST or IPC_REFUSED */
	_Alignas(64) uint64_t rx_off; /* in the buffer memfd, or a pair's */
	uint64_t tx_off;
	uint32_t rx_size, tx_size; /* powers of two */
	uint32_t flow_id;          /* index into the map of words (see ipc_page) */
	uint32_t thread;           /* fast thread: which dirty bell to ring */
	_Atomic uint32_t reason;   /* enum ipc_reason */
	uint32_t local;            /* both ends are on this host: LOOK when its kernel socket has news */
	/* for TCP_INFO: what Linux had counted at offset 0 of the streams */
	uint64_t base_sent, base_acked, base_received;
	/* written by the service for TCP_INFO; may be torn, for display only */
	_Alignas(64) _Atomic uint32_t srtt_us;
	_Atomic uint32_t rttvar_us, mss, cwnd_bytes;
	_Atomic uint64_t snd_sent; /* bytes sent so far */
	_Atomic uint32_t retransmits, peer_wnd;
	_Atomic uint32_t segs_in, segs_out, data_segs_in, data_segs_out; /* these and retransmits: Linux's included */
	_Atomic uint64_t bytes_retrans;
	_Atomic uint32_t timeouts; /* in a row; with IPC_PROBES unanswered probes of a closed window */
	_Atomic uint32_t sent_ms;  /* as heard_ms: data */
};
static_assert(sizeof(struct ipc_slot) == 256, "four cache lines");

/* Where one or more threads of the application wait (an epoll set, a blocked thread). */
struct ipc_context {
	struct bell bell; /* rung by fast threads */
	_Alignas(64) _Atomic uint32_t
		armed; /* set by a waiter that will sleep; taken by the ringer, which writes the eventfd */
};

struct ipc_app {
	uint32_t magic, version, slots, threads; /* written by the service; read once */
	/*
	 * Written by the application: threads of it that wait for connections of Linux's, and in a context, too. The
	 * contexts that are armed are woken whenever a connection, whosoever, has become FAST: it may be that one.
	 */
	_Atomic uint32_t watchers;
	struct bell dirty[IPC_THREADS]; /* rung by the application: slots with a new record */
	struct ipc_context context[IPC_CONTEXTS];
	struct ipc_slot slot[IPC_SLOTS];
};

/* The service's own page. */
struct ipc_page {
	_Alignas(64) _Atomic uint64_t instance; /* random, of this start of the service */
	_Atomic uint32_t ready;                 /* XDP is attached: an adoption need not wait for it; else PREPARE */
	/*
	 * Local flows, by flow id: bytes of what its program has written that are in the other one's receive buffer.
	 * Stored after the copy and before either slot says so: when the service dies both ends look here.
	 */
	_Atomic uint64_t moved[IPC_FLOWS];
	struct {
		_Alignas(64) _Atomic uint32_t armed; /* fast thread sleeps: write the doorbell after bell_ring */
	} thread[IPC_THREADS];
};

/*
 * The map of words: a BPF array, one word per flow id, that tc egress sets when the kernel
 * socket of that flow sends something itself. Applications map it read-only. The low half
 * counts segments with payload, the high half FIN and RST.
 */
#define IPC_WORD_FIN(w) ((uint32_t)((w) >> 32))
#define IPC_WORD_STRAY(w) ((uint32_t)(w))

/*
 * A process that uses a connection in the kernel, and may not be the only one that holds it, has a POSIX read lock on
 * this byte of the socket: it is not adopted then.
 */
#define IPC_USED_BYTE 0x7461706173ull

/*
 * While the service makes the socket the connection again it has a write lock (of the open file) on this byte, from
 * before the shadow's filter goes until nothing more is to be done. A process that cannot be answered looks at both.
 */
#define IPC_RESTORED_BYTE (IPC_USED_BYTE + 1)

/*
 * A connection that the service has is known by the filter on its socket. Where a service of an ordinary user may attach
 * none, this write hint of the inode (F_SET_RW_HINT, RWH_WRITE_LIFE_EXTREME), which means nothing to a socket, says the
 * same.
 */
#define IPC_TAKEN_HINT 5u

#define IPC_SLOT_NONE UINT32_MAX /* in a RETURN: nobody is answered */

/* Why a connection is with Linux: id, word for reports, explanation. */
#define IPC_REASON_LIST(X)                                                                       \
	X(NONE, "none", "")                                                                      \
	X(NOT_TCP, "not-tcp", "not an established TCP connection")                               \
	X(NOT_OURS, "not-our-interface", "its packets do not pass the service's interface")      \
	X(LOCAL, "local", "both ends are on this host")                                          \
	X(PEER, "local-peer", "both ends are on this host, and the other one did not ask")       \
	X(RULES, "rules", "a rule has changed")                                                  \
	X(FAMILY, "family", "address family not accelerated")                                    \
	X(OPTIONS, "options", "uses a TCP option that is not accelerated (MD5, AO, MPTCP, ULP)") \
	X(FULL, "full", "the service's table of flows is full")                                  \
	X(MEMORY, "memory", "no buffer large enough left for this application")                  \
	X(BUSY, "busy", "too much data in the kernel's queues")                                  \
	X(STATE, "state", "the connection's state could not be read exactly")                    \
	X(SILENT, "no-answer", "Linux did not answer for it: a rule drops it, or no route")      \
	X(REJECTED, "rejected", "Linux answered with a reset")                                   \
	X(RACE, "race", "data arrived while it was being adopted")                               \
	X(FAULT, "fault", "failed on purpose, for a test")                                       \
	X(STOPPING, "stopping", "the service is stopping")                                       \
	X(RELEASED, "released", "given back by the administrator (tapas release)")               \
	X(HANDED_BACK, "handed-back", "the program used it in a way that only Linux sees")       \
	X(STRAY, "stray", "something wrote to the socket past the library")                      \
	X(URGENT, "urgent", "the peer sent urgent data, which only Linux's socket has")          \
	X(MOVED, "moved", "another process has taken it over")                                   \
	X(RETRY, "retry", "another transaction on it was running")                               \
	X(DISABLED, "disabled", "configuration leaves this port to Linux")                       \
	X(ERROR, "error", "an unexpected error of a system call")                                \
	X(USED, "used", "another process uses it as well")                                       \
	X(GAPS, "gaps", "data arrived out of order, which only Linux's socket has")

enum ipc_reason {
#define X(id, name, help) IPC_REASON_##id,
	IPC_REASON_LIST(X)
#undef X
		IPC_REASON_COUNT
};
const char *ipc_reason_name(uint32_t reason);
const char *ipc_reason_help(uint32_t reason);

/*
 * The boundary's checker for an application's record. @cur is what the service holds as
 * already accepted, @rec the copy just read. Pure; any thread. Returns 0, or -EPROTO if
 * the record is impossible: offsets that go back, more unacknowledged bytes than the
 * transmit buffer holds, more consumed than delivered, unknown bits.
 */
struct ipc_record {
	uint64_t snd_end, rcv_read;
	uint32_t want, opts, context;
};
struct ipc_bounds {
	uint64_t snd_end, rcv_read;  /* accepted so far */
	uint64_t snd_acked, rcv_end; /* the service's own */
	uint32_t tx_size;
	bool tx_closed; /* Linux closed the sending side: snd_end may not grow */
};
int ipc_record_check(const struct ipc_record *rec, const struct ipc_bounds *cur);
void ipc_record_read(struct ipc_slot *slot, struct ipc_record *out); /* each word read once, acquire */
/* The same, and sets IPC_FROZEN in both offsets: what is read is the last word. */
void ipc_record_freeze(struct ipc_slot *slot, struct ipc_record *out);

#endif
