/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TCP sockets and epoll instances as the interposition library sees them, and the life of a
 * socket: LINUX -> ADOPTING -> FAST, or back to LINUX when the service refuses; and from FAST
 * back to LINUX whenever the service gives the connection back.
 *
 * Locks, in the order they may be taken: sock.lock, ep.lock; sock.tx_lock alone.
 */
#ifndef PRELOAD_SOCK_H
#define PRELOAD_SOCK_H

#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "preload/fd.h"
#include "preload/libc.h"
#include "preload/stream.h"

enum sock_state {
	SOCK_LINUX,
	SOCK_ADOPTING, /* I/O is held until the service has answered */
	SOCK_FAST,     /* through the buffers */
	SOCK_AWAY,     /* FAST in another process (inherit.c): found out, and waited for, at the first use */
};

#define FIRST_LOOK_BYTES 4096 /* connect to the service not before a connection has moved this */
#define SLOT_NONE UINT32_MAX
#define NEVER UINT32_MAX
#define WAIT_FOREVER UINT64_MAX
#define SOCK_RETURN_NS (20 * NS_PER_MS) /* a non-blocking receive waits so long for a connection on its way */

struct ep;

/* Where an item's registration is. */
enum item_where {
	ITEM_NONE,
	ITEM_KERNEL,
	ITEM_USER,   /* its socket is adopted, or on the way */
	ITEM_PARKED, /* back from USER, but disabled (ONESHOT): the application's MOD puts it into the kernel */
};

/*
 * One membership: descriptor @fd, whose socket is @sock, in @ep. What says "both" is written
 * with s->lock and ep->lock held, and read with either.
 */
struct item {
	struct item *sock_next;               /* s->lock */
	struct item *ready_prev, *ready_next; /* ep->lock */
	struct item *all_prev, *all_next;     /* ep->lock */
	struct ep *ep;                        /* both; constant while it is a member */
	struct sock *sock;
	int fd;
	uint32_t events;       /* both */
	uint64_t data;         /* both */
	uint8_t where;         /* both */
	bool queued;           /* ep->lock */
	_Atomic bool disabled; /* ep->lock: ONESHOT has fired */
	uint32_t id;           /* constant once it is not 0 */
	uint32_t tag;          /* both: id and generation, which changes with each registration and each life */
	/* ep, NULL when it is free: what a tag is checked against; written with both */
	_Atomic(struct ep *) owner;
	void *pool_link;
};

/* What TCP_INFO counted before the connection was last given back to Linux. */
struct past {
	uint64_t bytes_sent, bytes_acked, bytes_received, bytes_retrans;
	uint32_t segs_in, segs_out, data_segs_in, data_segs_out, retransmits;
};

/* When to adopt, as the service says; a mixture of its and its successor's is one, too. */
struct sock_policy {
	_Atomic bool is_known, accelerate;
	_Atomic uint32_t exchanges; /* more than this many */
	_Atomic uint64_t bytes;     /* or more than this many */
};

struct sock {
	struct file file;
	/* what every call looks at while the socket is Linux's: two cache lines; first what may be seen without a reference */
	_Atomic uint32_t state; /* enum sock_state */
	_Atomic bool tagged;    /* some item of it was registered with a tag */
	_Atomic bool listener_asked;
	_Atomic uint8_t brief;            /* a listener's: brief_policy() for its connections, or 0 */
	struct core *_Atomic listen_core; /* which service gave the policy */
	struct sock_policy policy;
	struct lock lock;   /* items, state */
	struct item *items; /* its memberships in epoll instances */
	/* counted by several threads; a count lost now and then does no harm */
	_Atomic uint32_t exchanges, try_at;
	_Atomic uint8_t first_dir, last_dir; /* 0, IO_IN, IO_OUT */
	_Atomic bool nonblock;
	_Atomic bool shared; /* another process may hold it, not only by a fork after it was made: see share.c */
	_Atomic uint64_t bytes, try_bytes;
	_Atomic bool marked; /* this process says that it uses it in the kernel */
	bool listener;
	_Atomic bool listener_asking;
	_Atomic bool keep_linux; /* not adopted (again): its program uses it in ways that only Linux sees */
	_Atomic int fd;          /* one of its descriptors */
	uint32_t slot, context;
	_Atomic uint32_t outside; /* threads that wait for it beside the kernel's socket: see outside.c */

	struct stream st;    /* valid in FAST */
	struct core *core;   /* valid if slot != SLOT_NONE */
	struct lock tx_lock; /* stream_write() */
	_Atomic uint64_t word;
	uint64_t cookie;
	_Atomic int late_fd; /* our own, of a connection that was closed while threads were inside calls on it; or 0 */
	_Atomic uint32_t tries;
	uint8_t strays; /* returns because of what was written past the library */

	uint8_t claim;          /* enum claim, valid in AWAY */
	uint64_t claim_ns;      /* AWAY: not claimed before this; 0: at once */
	struct core *heir_of;   /* AWAY since a fork: the parent's, as it was then; or NULL */
	uint64_t heir_asked_ns; /* when it was last asked for by the parent's control socket */
	_Atomic uint8_t need;   /* IO_IN, IO_OUT: what the next claim is for; 0: anything */
	bool unfit;             /* ADOPTING: its buffers cannot be had here, and the service has been told; s->lock */
	_Atomic bool asked;     /* FAST: a half that is elsewhere is wanted here, the service has been told */
	_Atomic bool claiming;  /* ADOPTING, on its way from AWAY */
	uint32_t generation;    /* inherit_generation when it was made */
	/* it was a brief connection (brief.h): which, under which descriptor, and calls that began then and are inside */
	uint64_t brief_serial;
	int brief_fd;
	_Atomic uint32_t brief_calls;
	_Atomic bool rx_kernel, tx_kernel; /* FAST and local: the kernel is still used; see local.h */
	_Atomic uint32_t tx_waits;
	_Atomic uint32_t untold; /* an error that was taken from its kernel socket by a call that told something else */
	void *survivor;          /* unread bytes of a local connection whose service has died: see survive.c; or NULL */
	size_t survivor_size;
	_Atomic(struct ipc_slot *) offer; /* where the service may say `invited`; NULL: it has not offered */
	_Atomic bool same_host;           /* both ends are on this host, as far as is known */
	bool passed;                      /* sent in a message, who knows to whom */
	struct sock *index_next;          /* share.c's */
	uint64_t index_cookie;            /* 0: not in the index */

	uint32_t opts; /* IPC_OPT_* asked for by setsockopt() */
	_Atomic bool shut_rd, shut_wr, err_taken;
	_Atomic uint64_t rcvtimeo_ns, sndtimeo_ns; /* 0: none */
	_Atomic uint32_t rcvlowat;                 /* SO_RCVLOWAT; 0: as 1 */
	_Atomic bool inq;                          /* TCP_INQ */
	/* TCP_USER_TIMEOUT, TCP_KEEP*: 0 if not known */
	_Atomic uint32_t user_timeout_ms, keep_idle_s, keep_intvl_s, keep_cnt;
	struct past past; /* s->lock */

	struct item first; /* one of its items; free if its ep is NULL; keeps its number, see sock_new() */
	void *pool_link;
};

#define IO_IN 1
#define IO_OUT 2
static_assert(IO_IN == IPC_HALF_RX && IO_OUT == IPC_HALF_TX, "one by one");

/* What a wait for POLL* / EPOLL* @events uses. */
static inline uint32_t io_of_events(uint32_t events)
{
	return (events & (EPOLLIN | EPOLLRDNORM) ? IO_IN : 0) | (events & (EPOLLOUT | EPOLLWRNORM) ? IO_OUT : 0);
}

/* How a call on a descriptor goes on. */
enum io {
	IO_LINUX, /* call libc */
	IO_FAST,
	IO_FAIL, /* errno is set */
};

extern _Atomic(struct core *) sock_core; /* the service at present, or NULL */
extern bool sock_verbose;
extern _Atomic bool sock_stay; /* nothing more is adopted: the program makes I/O that only Linux sees */

/* Track a new descriptor. With a reference, or NULL. */
struct sock *sock_track(int fd, bool nonblock);
/* The same, but nobody knows it before fd_set_new(). */
struct sock *sock_new(int fd, bool nonblock);
/* Is another thread just connecting to the service, or was there no attempt lately? Then asking again is worth it. */
bool sock_service_busy(void);
/* Is it there, but did not answer in time when it was last asked? */
bool sock_service_slow(void);
/* A moment to adopt it, by @fd: if the policy says so. Keeps errno. */
void sock_adopt_try(struct sock *s, int fd);
/* Ask the service what inherit_claim() wants to know: ADOPTING then. s->lock held, slot and context taken. */
void sock_claim_start(struct sock *s);
/* Connect to the service if that has not been tried lately. Returns it or NULL. */
struct core *sock_service(void);
/* What the service says of it, if that is known. */
void sock_set_policy(struct sock *s, const struct core_policy *p);
bool sock_policy(const struct sock *s, struct core_policy *p);
/* Ask for the policy of a listening socket, once per service. */
void sock_listen(struct sock *s, int fd);
/* Was the service of now asked? */
static inline bool sock_is_asked(const struct sock *s)
{
	const struct core *c = atomic_load_explicit(&sock_core, memory_order_acquire);

	return c && !core_is_dead(c) && s->listener_asked && s->listen_core == c;
}

/*
 * The socket of @fd, which is in the table, if it is Linux's; without a reference: another thread may be closing it, and
 * it may be another one by now, as the memory of files keeps its type. To be looked at where a mistake costs little.
 */
static inline const struct sock *sock_peek_linux(int fd)
{
	const struct file *f = atomic_load_explicit(&fd_table[fd], memory_order_acquire);
	const struct sock *s = f && !fd_is_brief(f) && f->type == FILE_SOCK ? container_of(f, struct sock, file) : NULL;

	return s && atomic_load_explicit(&s->state, memory_order_relaxed) == SOCK_LINUX ? s : NULL;
}

/*
 * Enter a call on @fd. IO_LINUX with *@out == NULL: not ours. Otherwise finish with sock_end().
 * @dontwait: the call itself may not block. @dir: IO_IN, IO_OUT or 0.
 */
enum io sock_begin(struct sock *s, int fd, bool dontwait, int dir,
		   struct sock **out); /* @s with FILE_REF + FILE_CALL */
static inline enum io sock_enter(int fd, bool dontwait, int dir, struct sock **out)
{
	struct file *f;

	*out = NULL;
	if (likely(!file_get_any(fd)))
		return IO_LINUX;
	if (!sock_peek_linux(fd))     /* libc's own call is a cancellation point */
		pthread_testcancel(); /* nothing is held yet */
	f = file_get_more(fd, FILE_REF + FILE_CALL);
	if (!f)
		return IO_LINUX;
	if (f->type != FILE_SOCK) {
		file_put_more(f, FILE_REF + FILE_CALL);
		return IO_LINUX;
	}
	return sock_begin(container_of(f, struct sock, file), fd, dontwait, dir, out);
}
/* Leave it. @n: its result. Counts exchanges, and may start the adoption. Keeps errno. */
void sock_end(struct sock *s, int fd, enum io io, int dir, ssize_t n);
/* The same for a call that was not counted in FILE_CALL. */
void sock_moment(struct sock *s, int fd, int dir, ssize_t n);
/* Threads that may be in the kernel on it; a full fence between this and a change of state decides who sees whom. */
static inline bool sock_is_inside(const struct sock *s)
{
	return atomic_load_explicit(&s->file.refs, memory_order_seq_cst) >= FILE_CALL ||
	       atomic_load_explicit(&s->brief_calls, memory_order_seq_cst);
}

/* A tracked socket of any state with a reference, or NULL. */
struct sock *sock_get(int fd);
/* The next tracked socket behind descriptor *@fd (-1: the first), with a reference and its descriptor in *@fd; or NULL. */
struct sock *sock_next(int *fd);
/* @to is a new duplicate of @from (or negative). Returns @to. */
int sock_dup(int from, int to);
static inline void sock_put(struct sock *s)
{
	file_put(&s->file);
}

/*
 * Take the service's answer if it has come: to an adoption, or that the connection is Linux's
 * again. Returns true if the state is certain: LINUX, or FAST and carried by the service.
 */
bool sock_settle(struct sock *s);
/* Has the kernel socket got a FIN, or was it shut down for reading? For a socket that has a state but LINUX. */
bool sock_kernel_ended(const struct sock *s);
/*
 * Hand the connection back to Linux: what follows is seen by Linux alone. @keep: it is not
 * adopted again. Blocks for some hundred microseconds. Returns 0 once the socket is
 * Linux's, also if it was, or -errno.
 */
int sock_return(struct sock *s, int fd, bool keep);
/* @s (FAST) is used in a direction that another process has: it goes back to Linux, where both have both. Does not block. */
void sock_need(struct sock *s, uint32_t halves);
/* The same, and waits for it; nothing if it has @halves, or is not FAST. */
void sock_whole(struct sock *s, int fd, uint32_t halves);
/* A FAST socket's record turned out to be closed: as sock_begin(), for a caller that is inside a call. */
enum io sock_reenter(struct sock *s, bool dontwait, int dir);
/* POLL* / EPOLL* bits that hold now; asks for a ring when POLLOUT in @interest does not hold. */
uint32_t sock_events(struct sock *s, uint32_t interest);
/* It is on its way: may something of @interest hold? Then a look that does not wait is worth a little patience. */
bool sock_may_be_ready(const struct sock *s, uint32_t interest);
/* The pending error, once (SO_ERROR); 0 if none. */
int sock_error_take(struct sock *s);
/* Its two halves, for who takes the kernel socket's own between them. */
void sock_error_look(struct sock *s);
int sock_error_get(struct sock *s);
bool sock_failed(const struct sock *s);
/* FAST: has it failed, or does the service not carry it any more? It goes nowhere then. */
bool sock_is_lost(const struct sock *s);
/* The slot and the context of an adoption that is over, if there are any. s->lock held, or nobody else has the socket. */
void slot_release(struct sock *s);
void sock_free(struct sock *s);
void sock_closed(struct sock *s);

static inline uint32_t sock_state(const struct sock *s)
{
	/* pairs with the release stores of state under s->lock */
	return atomic_load_explicit(&s->state, memory_order_acquire);
}

/* Is there an answer of the service to be waited for or taken? */
static inline bool sock_is_open(const struct sock *s)
{
	uint32_t state = sock_state(s);

	return state == SOCK_ADOPTING || state == SOCK_AWAY || (state == SOCK_FAST && !stream_is_open(&s->st));
}

/* Another process has or had it, and nothing is known here yet? */
static inline bool sock_is_unknown(const struct sock *s)
{
	uint32_t state = sock_state(s);

	return state == SOCK_AWAY || (state == SOCK_ADOPTING && s->claiming);
}

/* ---- ready.c, interest.c, instance.c ---- */

/* News of a slot: settle, mark its items ready, wake epoll instances other than @self. */
void ep_news(struct core *c, uint32_t slot, struct ep *self);
/* Take everything from the bell of a context. */
void ep_drain(struct core *c, uint32_t context, struct ep *self);
/* s->lock held, all of them. */
int ep_context(const struct sock *s, struct core *c); /* where its epoll waits, with a reference; or -1 */
bool ep_items_to_user(struct sock *s);
void ep_items_to_kernel(struct sock *s);
void ep_items_mark(struct sock *s, struct ep *self);
void ep_items_remove(struct sock *s);
void ep_items_forget(struct sock *s); /* out of the kernel's sets, just before s->fd is closed */
void ep_free(struct file *f);
void ep_closed(struct file *f);
void ep_child(void);
/* A message with descriptors is about to be sent: epoll instances among them are no longer ours alone. */
void lend_message(int sock, const struct msghdr *m);

/* ---- option.c ---- */

/* Read from the kernel what the buffers must know of the options of @fd, however they came to be set. */
void option_load(struct sock *s, int fd);
/* It was given back: keep what the socket has forgotten. s->lock held. */
void option_returned(struct sock *s);

/* ---- wait.c ---- */

uint64_t wait_deadline(uint64_t timeout_ns);
#define WAIT_LEFT UINT32_MAX /* as `events`: until it has left the fast path, or failed */
/*
 * Block until @s has one of @events, or has left the fast path (if @events is 0: until its state is certain), @deadline
 * passes (-EAGAIN) or a signal arrives (-EINTR). Returns 0.
 */
int wait_sock(struct sock *s, uint32_t events, uint64_t deadline);
/* The same until more than @more bytes are unread, whatever SO_RCVLOWAT says, or no more will come. */
int wait_unread(struct sock *s, uint64_t more, uint64_t deadline);
/* This thread's own context in @c, with a reference for the caller, or -errno. */
int wait_context(struct core *c);
/*
 * A kernel epoll descriptor of this thread that becomes readable when one of the contexts in
 * @mask is rung or the service dies; wait_clear() makes it unreadable again. -1: none.
 */
int wait_fd(struct core *c, uint64_t mask);
void wait_clear(int epfd);
void wait_child(void);

#endif
