/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private to service/slow: the structures its files share. Everything here is the main thread's. */
#ifndef SERVICE_SLOW_INTERNAL_H
#define SERVICE_SLOW_INTERNAL_H

#include <arpa/inet.h>
#include <sys/types.h>

#include "service/base/compiler.h"
#include "service/base/hash.h"
#include "service/ipc/msg.h"
#include "service/ipc/wake.h"
#include "service/slow/ring.h"
#include "service/slow/slow.h"
#include "service/tcp/cc.h"
#include "shadow/sock.h"

#define SLOW_NONE UINT32_MAX
#define SLOW_CLIENTS 1024
#define SLOW_LISTENERS 256
#define SLOW_LEFT 1024   /* remembered refusals, for reports */
#define SLOW_OFFERS 8192 /* remembered requests of one end of a local connection; a power of two */
#define SLOW_HELD 64     /* frames held per adoption */
#define SLOW_ADOPTING 64 /* transactions at a time; further requests wait in their sockets */
#define SLOW_LEAVING 32  /* frozen at a time, when all are given back */
#define SLOW_BACK 4      /* times that halves of a connection go back to a process that they were taken from */
#define SLOW_PAIRS FAST_REGIONS
#define SLOW_NEIGHBOURS 1024
#define SLOW_FIN_WAIT2_NS (60 * NS_PER_S)
#define SLOW_TIME_WAIT_NS (60 * NS_PER_S)

/* A command that waits for room in a thread's ring. */
struct down_wait {
	struct down_wait *next;
	enum fast_cmd cmd;
	uint32_t len;
	uint8_t data[];
};

/* A frame that waits for the outcome of an adoption. */
struct held_frame {
	struct held_frame *next;
	uint32_t thread, len;
	uint8_t data[];
};

/* A slot of an application that waits for the outcome, or has a half. Holds the application (app.conns). */
struct leave_for {
	struct app *app; /* NULL: none */
	uint32_t slot, context, opts;
	int app_fd;
	uint32_t halves; /* IPC_HALF_*: what it asks for */
};

enum leave_settle {
	LEAVE_NOT,
	LEAVE_BUSY,  /* a shutdown() of the application's to end */
	LEAVE_MARK,  /* exclusive mode: the TAP to be read up to the mark */
	LEAVE_FIN,   /* Linux to have the peer's FIN, before it is let go */
	LEAVE_ACK,   /* Linux to have an acknowledgement, before it is let go */
	LEAVE_FINS,  /* Linux to have both FINs, after */
	LEAVE_PAIR,  /* local: the other end to be frozen, too, and as LEAVE_BUSY */
	LEAVE_DRAIN, /* local: room in its socket for what the program has written */
};

/*
 * A connection. `state` is written by conn_set_state() alone. Fields after the state are
 * valid from ADOPTING on; those of the adoption only in ADOPTING.
 */
struct conn {
	enum conn_state state;
	uint32_t id; /* = flow id = index */
	uint32_t hash_next, list_prev, list_next;
	struct flow_key key;
	uint64_t cookie;
	struct app *app; /* NULL once its slot was released (TIME_WAIT) */
	uint32_t slot, context, thread;
	uint64_t rx_off, tx_off; /* see conn_tx_app() */
	uint32_t rx_size, tx_size;
	struct ring *rx_ring, *tx_ring; /* local: not in the applications' own memory, but there; with a use */
	int app_fd;                     /* descriptor number in the application, -1: none */
	struct leave_for
		sender; /* another slot that has the sending half; `app` and `slot` have the receiving one then */
	uint32_t backs; /* times a half went back */

	/* both ends are on this host: see local.c. Of what lies below, a local connection has no shadow and no verdict */
	bool local;
	uint32_t peer; /* the other end, or SLOW_NONE */

	/* adoption */
	int fd;                   /* duplicate of the socket, closed at the end of the transaction; also when LEAVING */
	bool waiting;             /* for XDP to be attached: nothing has been done yet */
	uint32_t attempts, plain; /* readings; acknowledgements that may have been no answers */
	uint64_t deadline_ns;
	struct sock_state sock;
	struct held_frame *held, **held_tail;
	uint32_t held_count, opts;

	/* leaving the fast path (LEAVING) */
	uint32_t leave_reason; /* enum ipc_reason, for the slot */
	uint64_t leave_ns;
	struct up_frozen frozen;  /* the flow as it stood */
	enum leave_settle settle; /* what it waits for, until settle_ns at most */
	uint64_t settle_ns, mark;
	struct sock_rebuild rebuild;
	bool shut_late;         /* it had to be built once more, as it was shut down meanwhile */
	uint8_t *stray;         /* rebuild.stray's bytes */
	bool leave_refused;     /* its socket could not be had */
	struct leave_for mover; /* who takes it over; none: it goes back to Linux */
	struct leave_for asker; /* another process that waits for it to be in Linux */
	bool asked;             /* and so does one that has a half */
	bool again;             /* local: it could not leave, and tries again, not before leave_again_ns */
	uint64_t leave_again_ns;
	uint64_t written_ns; /* local: since when local_is_written_there() has said so; 0: it does not */
	uint64_t hidden_ns;  /* local: since when its socket was wanted, and could not be had; 0: it could */
	uint8_t *out;        /* LEAVE_DRAIN: bytes from out_done on */
	uint64_t stay_ns;    /* local: since when it has stayed although somebody waits; 0: nobody does */
	size_t out_len, out_done;

	/* shadow: numbers of the kernel socket, constant but for acknowledgements of what it had sent */
	uint32_t sh_rcv_nxt, sh_snd_nxt; /* without FINs */
	uint32_t sh_acked;               /* what we have acknowledged to it */
	uint32_t sh_slipped, slips;      /* see linux_slipped(): bytes that it has, beyond sh_rcv_nxt; how often */
	uint8_t peer_mac[6];
	uint16_t vary;
	struct wire_template tmpl;

	/* closing */
	bool local_fin; /* Linux closed the sending side */
	bool orphan;    /* no process holds the descriptor any more */
	bool peer_fin;  /* peer's FIN was received, mirrored to the shadow */
	bool peer_fin_first;
	bool peer_fin_seen;                  /* the shadow has acknowledged the mirrored FIN */
	bool fin_acked;                      /* peer acknowledged our FIN */
	bool failed;                         /* reset or timed out */
	bool rst_judged;                     /* a wire RST was injected; the next verdict says whether it holds */
	uint64_t closed_ns;                  /* when the last of these changed */
	uint32_t wire_rcv_nxt, wire_snd_nxt; /* TIME_WAIT: last numbers on the wire */
	uint32_t ts_recent;                  /* the peer's TSval at adoption, or 0: any SYN was older */
	uint32_t ts_offset;                  /* TSval = milliseconds of our clock + this */

	/* verdict */
	enum verdict verdict;
	uint32_t hb_place; /* in slow.pending, from 1 on, while its question is open; or 0 */
	bool muted;
	bool hb_last; /* it is late; one more tick */
	uint32_t hb_tries;
	uint64_t hb_sent_ns, hb_first_ns, verdict_ns, hb_next_ns, spoke_ns;

	/* congestion */
	const struct cc_ops *cc;
	struct cc_state cc_state;
	bool cc_active;
	uint64_t cc_last_ns, cc_acked, cc_ecn;
	uint32_t cc_rexmits, cc_timeouts, cc_idle;
};

/* Buffers of a slot whose connection left: a thread of the application may still be copying there. */
struct parked {
	uint64_t rx_off, tx_off;
	uint32_t rx_size, tx_size; /* 0: none */
	struct ring *tx_ring;      /* or NULL */
};

/* A registered application: one process with the library. */
struct app {
	uint32_t index;        /* in slow.apps and in the fast threads */
	struct client *client; /* its control socket, NULL once closed */
	pid_t pid;
	uid_t uid;
	int pidfd, pidfd_watch;
	char command[16];
	struct ipc_app *shm;
	uint8_t *buf;
	uint64_t buf_size, buf_next; /* buf_next: bytes never handed out start here */
	struct {
		uint64_t *off;
		uint32_t count, room;
	} free_bufs[32]; /* by log2(size) */
	int shm_fd, buf_fd, doorbell_fd;
	int context_fd[IPC_CONTEXTS];
	uint32_t *slot_conn;   /* IPC_SLOTS: conn id or SLOW_NONE */
	struct parked *parked; /* IPC_SLOTS: buffers of connections that left; NULL until the first */
	uint32_t nparked;
	uint32_t conns;
	uint32_t gone_waiting; /* fast threads that have not answered CMD_APP_DEL */
	bool dying;            /* process gone or disconnected: no new adoptions */
	bool exited;           /* its process has ended */
	bool deleted;          /* CMD_APP_DEL sent */
};

struct client {
	struct slow *slow;
	int sock, watch;
	pid_t pid;
	uid_t uid;
	struct app *app;
	bool capture;
	uint32_t ended; /* turns since it was ended: it is being closed */
	bool more;      /* it may have further messages: looked at again in the next turn */
};

struct listener {
	struct app *app; /* NULL: free */
	int fd;
	struct slow_listener_info info;
};

struct left {
	struct app *app;
	uint32_t slot;
	struct flow_key key;
};

/* One end of a local connection asked before the other one did, and was refused. */
struct offer {
	struct app *app; /* NULL: none */
	uint32_t slot;
	uint64_t time_ns;
	struct flow_key key;
};

struct neighbour {
	struct ip_addr addr;
	uint8_t mac[6];
};

struct slow {
	struct slow_env env;
	const struct config *cfg;
	struct tap *tap;
	struct watch *watch;
	slow_admin_fn *admin;
	void *admin_ctx;
	struct counters counters;
	struct hash_key hash;
	uint64_t now_ns;
	bool stopping;

	struct conn *conns;
	uint32_t max_conns, free_head, list_head, bucket_mask;
	uint32_t *buckets;
	uint32_t count[CONN_TIME_WAIT + 1], muted;

	struct down_wait *down_head[IPC_THREADS], **down_tail[IPC_THREADS];
	struct app *apps[FAST_APPS];
	uint32_t napps;
	struct pair *pairs[SLOW_PAIRS]; /* ring.c */
	uint32_t pair_id;               /* of the last one */
	struct client *clients[SLOW_CLIENTS];
	bool clients_more, clients_ended;
	uint32_t captures;
	struct listener listeners[SLOW_LISTENERS];
	struct left left[SLOW_LEFT];
	uint32_t left_next;
	struct offer offers[SLOW_OFFERS]; /* by hash of the key: a later one takes the place */
	struct neighbour neighbours[SLOW_NEIGHBOURS];
	uint32_t neighbours_next;

	struct waker waker; /* of applications */
	int listen_fd, listen_watch, up_watch, attach_watch;
	char socket_path[108];

	/* timers; -1: not running */
	int settle_timer, adopt_timer, verdict_timer, heartbeat_timer, cc_timer, sweep_timer, detach_timer;
	uint64_t detach_due_ns; /* if the table is empty until then */
	uint64_t attach_failed_ns;
	uint32_t *pending; /* conns with a heartbeat in flight */
	uint32_t npending;
	bool probe_all; /* a change was notified: ask for every flow */
	uint32_t probe_cursor;
	uint32_t *active; /* conns in the congestion loop */
	uint32_t nactive, active_cursor;
	uint64_t marks;        /* put into the TAP so far */
	uint64_t pause_max_ns; /* longest LEAVING */
	uint64_t adoptions;    /* for [test] fail_adopt_* */
};

/* conn.c: the table. */
int conn_table_open(struct slow *s);
void conn_table_close(struct slow *s);
struct conn *conn_find(struct slow *s, const struct flow_key *key);
struct conn *conn_new(struct slow *s, const struct flow_key *key); /* NULL: full. State ADOPTING */
void conn_set_state(struct slow *s, struct conn *c, enum conn_state state);
void conn_free(struct slow *s, struct conn *c); /* from any state but CONN_FAST */
void conn_command(struct slow *s, struct conn *c, enum fast_cmd cmd, uint32_t error, uint32_t value);
/* Did anything change that lets the connection end? Called after each event of its close. */
void conn_progress(struct slow *s, struct conn *c);
/* Reset both ends: RST on the wire, @error for the application, RST into the shadow. */
void conn_abort(struct slow *s, struct conn *c, uint32_t error);
void conn_remove(struct slow *s, struct conn *c); /* FAST -> REMOVING */
/* Nobody has the descriptor any more: by Linux's word while its socket lives, then by the library's. */
bool conn_is_let_go(const struct conn *c);
bool conn_slots_are_let_go(const struct conn *c); /* the library's word, or the end of its process */
void conn_removed(struct slow *s, struct conn *c, uint32_t rcv_nxt, uint32_t snd_nxt);
void conn_sweep(struct slow *s);                                /* once a second */
struct conn *conn_find_cookie(struct slow *s, uint64_t cookie); /* slow: looks at all */
/* Its buffers, which nobody uses, are free. */
void conn_release_buffers(struct slow *s, struct conn *c);
/* Give slots and buffers back to the applications. The fast thread no longer uses them. @park: threads of it may. */
void conn_release_app(struct slow *s, struct conn *c, enum ipc_state final, uint32_t reason, bool park);
/* One slot of it is at its end. */
void conn_release_slot(struct slow *s, struct app *a, uint32_t slot, enum ipc_state final, uint32_t reason);
/* What the application must know of its buffers, before the slot's status says IPC_FAST. */
void conn_fill_slot(const struct conn *c, struct app *a, uint32_t slot);
/* Whose memory has the transmit buffer, and which slot its cursor. */
static inline struct app *conn_tx_app(const struct conn *c)
{
	return c->sender.app ? c->sender.app : c->app;
}
static inline uint32_t conn_tx_slot(const struct conn *c)
{
	return c->sender.app ? c->sender.slot : c->slot;
}
/* Where its buffers are mapped here. */
static inline uint8_t *conn_rx_buf(const struct conn *c)
{
	return c->rx_ring ? ring_buf(c->rx_ring) : c->app->buf + c->rx_off;
}
static inline uint8_t *conn_tx_buf(const struct conn *c)
{
	return c->tx_ring ? ring_buf(c->tx_ring) : conn_tx_app(c)->buf + c->tx_off;
}
/* Does it have a half, or both? */
static inline bool conn_is_slot(const struct conn *c, const struct app *a, uint32_t slot)
{
	return (c->app == a && c->slot == slot) || (c->sender.app == a && c->sender.slot == slot);
}
/* Is one of their processes gone? */
static inline bool conn_has_exited(const struct conn *c)
{
	return c->app->exited || (c->sender.app && c->sender.app->exited);
}

/* down.c: to the fast threads. Commands are never lost: what a full ring can't take waits in order. */
void down_send(struct slow *s, uint32_t thread, enum fast_cmd cmd, const void *data, uint32_t len);
/* A frame with CMD_TX_FRAME or CMD_RX_FRAME; dropped (false) when the ring is full. */
bool down_frame(struct slow *s, uint32_t thread, enum fast_cmd cmd, const uint8_t *frame, uint32_t len);
void down_retry(struct slow *s); /* each turn */
void down_close(struct slow *s);

/* app.c */
struct app *app_new(struct slow *s, struct client *cl, const char *command, int *err);
void app_dying(struct slow *s, struct app *a);
/* It broke the protocol: its flows are reset, nobody else's. */
void app_abort(struct slow *s, struct app *a);
void app_release(struct slow *s, struct app *a); /* frees it when nothing refers to it */
void app_gone(struct slow *s, uint32_t index);
void app_close_all(struct slow *s); /* the fast threads have ended */
int app_context(struct slow *s, struct app *a, uint32_t index);
/* A sealed memfd of @size bytes, mapped. Returns the descriptor or -errno. */
int app_memory(const char *name, uint64_t size, void **map);
/* Is there one of @size that was used before, or was half of the memory never given out? */
bool app_buffers_ample(const struct app *a, uint32_t size);
bool app_buffers_get(struct app *a, uint32_t size, uint64_t *off);
void app_buffers_put(struct app *a, uint32_t size, uint64_t off);
void app_park(struct app *a, uint32_t slot, bool rx, uint64_t off, uint32_t size); /* one of its two buffers */
void app_park_ring(struct slow *s, struct app *a, uint32_t slot, struct ring *r);  /* what it has sent from */
void app_unpark(struct slow *s, struct app *a, uint32_t slot);                     /* the slot is used anew */
void app_unpark_all(struct slow *s, struct app *a); /* those that the application has let go of */
/* Write a slot's final status and wake whoever waits for it. */
void app_slot_finish(struct slow *s, struct app *a, uint32_t slot, enum ipc_state state, uint32_t reason);
/* A connection has become FAST: wake those who wait for one of Linux's, which may be this one. */
void app_watchers_wake(struct slow *s);

/* client.c */
int client_listen(struct slow *s, char *why, unsigned why_size);
void client_close_all(struct slow *s);
/* Go on with clients that were cut short. Returns whether there is something to do at once. */
bool client_continue(struct slow *s);
void client_close(struct slow *s, struct client *cl);
void client_capture(struct slow *s, const struct up_frame *f);

/* adopt.c */
/* Socket @fd, which is taken over, for a slot of an application, which is not held. */
void adopt_begin(struct slow *s, const struct leave_for *to, int fd);
/* @fd is not the socket that was meant. */
void adopt_mistaken(struct slow *s, const struct leave_for *to, int fd);
void adopt_hold(struct slow *s, struct conn *c, uint32_t thread, const uint8_t *frame, uint32_t len);
void adopt_cancel(struct slow *s, struct conn *c, uint32_t reason); /* roll back */
/* XDP is attached, or (@rc) could not be: go on with the connections that wait for it. */
void adopt_attached(struct slow *s, int rc);
/* Steps 2 to 5, run again when a frame slipped in. Returns a reason to roll back, or NONE. */
uint32_t adopt_read(struct slow *s, struct conn *c);
/* Buffers for so many bytes at least, unless an earlier attempt has got them. False: no memory left. */
bool adopt_room(struct slow *s, struct conn *c, uint32_t rx_need, uint32_t rx_usual, uint32_t tx_need);
/* So much for a buffer, while memory of the application's is ample; else 0. */
uint32_t adopt_ample(const struct app *a);
void adopt_heartbeat(struct slow *s, struct conn *c); /* once more */
/* [test] fail_adopt_*: does this adoption fail on purpose after @step? */
bool adopt_fails(const struct slow *s, uint32_t step);

/* commit.c: a frame of the socket, from the TAP, while the transaction runs */
void adopt_from_linux(struct slow *s, struct conn *c, const struct segment *seg, const uint8_t *frame, uint32_t len);

/* local.c: both ends on this host */
struct flow_key local_other_key(const struct flow_key *k);
bool local_is(const struct slow *s, const struct sock_state *st);
/* Frozen: is a thread still writing where the other end reads? What another process sends would be spoiled. */
bool local_is_written_there(const struct slow *s, struct conn *c);
struct conn *local_other(const struct slow *s, const struct conn *c); /* NULL: none, or @c is not local */
void local_unlink(struct slow *s, struct conn *c);
/* @c, ADOPTING, becomes FAST, or is refused. */
void local_offer(struct slow *s, struct conn *c);
void local_forget(struct slow *s, const struct app *a); /* its offers */
void local_sweep(struct slow *s, struct conn *c);       /* once a second */
void local_init(const struct conn *c, struct flow_init *init);
/* Something has happened at the kernel socket of @c, or of the other end. */
void local_look(struct slow *s, struct conn *c);
bool local_is_let_go(const struct conn *c, bool said); /* @said: the libraries say so */
bool local_is_drained(const struct conn *c);           /* its program reads no more in the kernel */
void local_release_all(struct slow *s, uint32_t reason);

/* local_leave.c */
int local_leave(struct slow *s, struct conn *c, int fd, uint32_t reason); /* as leave_begin() */
void local_frozen(struct slow *s, struct conn *c);
void local_failed(struct slow *s, struct conn *c);            /* instead */
bool local_settle(struct slow *s, struct conn *c, bool late); /* true: connections may have been freed */
#define LOCAL_PIECES 5
/* What @c has written and @p has not read (either may be NULL), where it lies. Returns the pieces, at most 4. */
int local_unread(const struct conn *c, const struct conn *p, struct iovec *v);
size_t local_sum(const struct iovec *v, int n);

/*
 * local_anew.c: both kernel sockets become the connection again, with all that is unread, although an end has closed;
 * @p, the other end, or NULL. Returns 0, -EAGAIN: not yet, -EPERM or -ENOENT: not possible, or -ECONNRESET: it is lost.
 */
int local_anew(struct conn *c, struct conn *p);

/* demand.c: XDP is attached while there are connections in the table */
int demand_open(struct slow *s);
void demand_close(struct slow *s);
/* May an adoption begin? Else it waits for adopt_attached(). */
bool demand_ready(struct slow *s);
void demand_prepare(struct slow *s); /* an adoption is going to come */
void demand_empty(struct slow *s);   /* the last connection has left the table */

/* leave.c */
/* A duplicate of the socket, or -errno: by the number that the library last named. */
int leave_fetch_named(const struct conn *c);
/* The same, or by looking for it. */
int leave_fetch(const struct conn *c);
void leave_freeze(struct slow *s, struct conn *c, uint32_t reason);
/*
 * Give @c back to Linux. @fd: a duplicate of its socket, taken over, or -1: it is fetched from the process. Returns
 * 0: begun; or -errno: it stays FAST.
 */
int leave_begin(struct slow *s, struct conn *c, int fd, uint32_t reason);
/* Another process holds the socket and uses it: the flow becomes its own. @fd is taken over. */
void leave_move(struct slow *s, struct conn *c, const struct leave_for *to, int fd);
/* An application asks that the connection be in Linux. @asker may be NULL: it sees by itself. @fd stays the caller's. */
void leave_asked(struct slow *s, const struct leave_for *asker, int fd);
/*
 * Nobody gets the connection of this socket (or -1, which does nothing) any more. If the socket is dead it loses its
 * filter, by which other processes would tell for ever that somebody has it.
 */
void leave_dead(int fd);
void leave_frozen(struct slow *s, struct conn *c, const struct up_frozen *z);
void leave_failed(struct slow *s, struct conn *c); /* the flow died instead */
void leave_answer(struct slow *s, struct conn *c, struct leave_for *l, uint32_t state, uint32_t reason);
/* Frames that were held: into Linux, or to the fast thread. */
void leave_give_held(struct slow *s, struct conn *c, bool to_linux);
/* Install the frozen flow as it was, in the buffers that c names. */
void leave_install(struct slow *s, struct conn *c, const struct up_frozen *z);
/* Stopping: start as many more as may run at a time. Returns how many are still FAST or LEAVING. */
uint32_t leave_continue(struct slow *s);

/* restore.c: a frozen flow's socket becomes the connection again */
void restore_begin(struct slow *s, struct conn *c);
bool restore_is_busy(const struct conn *c); /* a thread of the application is in shutdown() */
void restore_settle(struct slow *s, struct conn *c, enum leave_settle why);
void restore_finish(struct slow *s, struct conn *c, bool ok); /* Linux has it. Frees @c */
/* Exclusive mode: what the sockets had sent as shadows up to mark @number has been read from the TAP, and not relayed. */
void restore_marked(struct slow *s, uint64_t number);

/* linux.c: what Linux says about FAST flows, and what is mirrored to it */
void linux_says(struct slow *s, struct conn *c, const struct segment *seg, const uint8_t *frame, uint32_t len);
void linux_closed(struct slow *s, struct conn *c); /* the program has closed the sending side, or the descriptor */
void linux_inject(struct slow *s, const uint8_t *frame, uint32_t len);
struct shadow_seq linux_seq(struct slow *s, struct conn *c);
void linux_ack(struct slow *s, struct conn *c, uint32_t ack);
void linux_mirror_fin(struct slow *s, struct conn *c);
void linux_mirror_rst(struct slow *s, struct conn *c, int32_t offset); /* offset: from rcv_nxt */

/* up.c: what the fast threads say */
void up_drain(struct slow *s);

/* verdict.c: heartbeats */
void verdict_ask(struct slow *s, struct conn *c);
void verdict_ask_all(struct slow *s);
void verdict_answer(struct slow *s, struct conn *c, enum verdict v);
void verdict_forget(struct slow *s, struct conn *c);
void verdict_timers(struct slow *s);
void verdict_sweep_timer(struct slow *s); /* without heartbeats: for local connections */

/* congest.c */
void congest_install(struct slow *s, struct conn *c, const char *linux_name, uint32_t srtt_us, uint32_t mss);
void congest_active(struct slow *s);
void congest_forget(struct slow *s, struct conn *c);

#endif
