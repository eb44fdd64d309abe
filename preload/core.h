/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One application's connection to the service: the control socket, the shared memory, its
 * slots and contexts, and the request to adopt a socket. No policy and no POSIX here: both
 * the interposition library and libtapas stand on it.
 *
 * Any thread may call anything. A core that has lost its service is `dead` for good; the
 * caller opens another one. Its memory stays mapped, because flows may still look at it.
 */
#ifndef PRELOAD_CORE_H
#define PRELOAD_CORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "preload/lock.h"
#include "service/ipc/abi.h"
#include "service/ipc/place.h"

#define CORE_REGIONS 256 /* other applications with which there is memory at a time */

/* When a connection is worth adopting. */
struct core_policy {
	bool accelerate;
	uint32_t exchanges; /* more than this many */
	uint64_t bytes;     /* or more than this many */
};

struct core {
	struct ipc_app *shm;
	uint8_t *buf;
	uint64_t buf_size;
	const struct ipc_page *page;
	const _Atomic uint64_t *words; /* NULL: no map of words */
	uint32_t words_count, threads;
	uint64_t app_id, sock_cookie; /* of the control socket */
	struct core_policy policy;    /* for outgoing connections */
	_Atomic int sock, doorbell;
	_Atomic int news; /* an epoll descriptor: what the kernel sockets of local connections hear (local.h); or -1 */
	_Atomic uint32_t dead;        /* the service has gone, or this process has forked */
	_Atomic uint32_t slots_used;  /* live slots */
	_Atomic uint64_t prepared_ns; /* when the service was last asked to prepare */
	struct lock lock;             /* requests on the control socket; making and freeing contexts */
	struct {
		_Atomic int fd; /* its eventfd, -1: not made yet */
		_Atomic uint32_t users;
	} context[IPC_CONTEXTS];
	_Atomic uint32_t slot_next;
	_Atomic uint8_t slot_used[IPC_SLOTS];
	void *_Atomic owner[IPC_SLOTS]; /* the caller's object for a slot */
	struct core_region {
		uint32_t id; /* 0: none. lock */
		_Atomic uint32_t users;
		uint8_t *map;
		uint64_t size;
	} region[CORE_REGIONS];
	struct core *older; /* in a forked child: of the process before the parent */
	uint32_t heirs;     /* in a forked child: sockets that may be asked back by `sock` */
};

/* Called for each descriptor the core makes (own = true) or gives up (false). May be NULL. */
extern void (*core_fd_hook)(int fd, bool own);

/*
 * Connect to the first of @places that answers, say HELLO, map. Blocks for at most a second.
 * Returns 0 or -errno: -ENOENT, -ECONNREFUSED: no service; -EACCES, -EPERM: not permitted.
 */
int core_open(const struct ipc_places *places, struct core **out);
/* Mark it dead and close the control socket; the mappings stay. */
void core_kill(struct core *c);
/* Look at the control socket without blocking: has the service gone? Returns true if dead. */
bool core_check(struct core *c);
static inline bool core_is_dead(const struct core *c)
{
	return atomic_load_explicit(&c->dead, memory_order_acquire);
}
/* Move descriptor @fd of the core, if it is one, to another number: the application wants this one. */
bool core_fd_move(struct core *c, int fd);

/*
 * A context to wait in, with its eventfd (in core->context[i].fd; for EPOLLIN | EPOLLET, never
 * drained). Asks the service the first time. When all are in use an existing one is shared.
 * Returns its index or -errno.
 */
int core_context_get(struct core *c);
void core_context_ref(struct core *c, uint32_t context);
void core_context_put(struct core *c, uint32_t context);
static inline int core_context_fd(const struct core *c, uint32_t context)
{
	return atomic_load_explicit(&c->context[context].fd, memory_order_acquire);
}
/* Say that somebody is about to sleep on the context. A full fence: look for work once more after it. */
static inline void core_context_arm(struct core *c, uint32_t context)
{
	/* pairs with the exchange of `armed` by the ringer, which follows its bell_ring() */
	atomic_store_explicit(&c->shm->context[context].armed, 1, memory_order_seq_cst);
	atomic_thread_fence(memory_order_seq_cst);
}
/* Wake whoever waits on the context. */
void core_context_wake(struct core *c, uint32_t context);

/* A reusable slot, or -ENOBUFS. @owner is what core->owner[slot] will say. */
int core_slot_take(struct core *c, void *owner);
void core_slot_put(struct core *c, uint32_t slot);

/*
 * The memory with @id, of a pair of applications, for one more user. Asks the service the first time. Returns its place
 * in core->region, or -errno; -EDEADLK: in a signal handler, later.
 */
int core_region_get(struct core *c, uint32_t id);
static inline void core_region_put(struct core *c, uint32_t place)
{
	/* pairs with the acquire in region_free_some() */
	atomic_fetch_sub_explicit(&c->region[place].users, 1, memory_order_release);
}

/* The socket's cookie; 0: not a socket. */
uint64_t core_cookie(int fd);

/*
 * Ask the service to adopt socket @fd, of @cookie. Sets the slot's
 * status to IPC_ADOPTING; the answer comes in the slot, through the bell of @context. Does not
 * block. Returns 0, or -errno with the slot as it was. @halves: IPC_HALF_*, for one that is FAST elsewhere; 0: both.
 */
int core_adopt(struct core *c, uint32_t slot, int fd, uint64_t cookie, uint32_t opts, uint32_t context,
	       uint32_t halves);

/*
 * Would an adoption begin at once? If not the service is asked to make that so; the connection
 * goes on in Linux meanwhile. Does not block.
 */
bool core_prepare(struct core *c);

/*
 * Ask the service to give the connection of socket @fd, number @number in the application, back
 * to Linux. The answer comes in @slot; with @fast, that it has the connection, it is the slot's end there, whoever brings
 * it about. Returns 0 or -errno.
 */
int core_return(struct core *c, uint32_t slot, int fd, int number, bool fast);

/*
 * The same in a forked child, by the control socket that it has from its parent (whose core @c is): nobody is answered.
 * -EBADF: it is closed here.
 */
int core_return_heir(const struct core *c, int fd);

/* Ask the service to look what has happened at the kernel socket of a local connection. Returns 0 or -errno. */
int core_look(struct core *c, uint32_t slot);

/* In a forked child: nobody names @c, the core of a process before the parent. Frees it and what it still has open. */
void core_disown(struct core *c);

/* Tell the service of a listener and ask for its policy. Returns 0 or -errno. */
int core_listen(struct core *c, int fd, struct core_policy *out);
void core_unlisten(struct core *c, int fd);

static inline struct ipc_slot *core_slot(struct core *c, uint32_t slot)
{
	return &c->shm->slot[slot];
}

/* Tell the fast thread that slot has a new record: ring its bell, and its door if it sleeps. Async-signal-safe. */
void core_ring(struct core *c, uint32_t slot, uint32_t thread);

/* The flow's word, or 0. */
static inline uint64_t core_word(const struct core *c, uint32_t flow_id)
{
	/* written by tc egress; one load, no order with anything else is needed */
	return c->words && flow_id < c->words_count ? atomic_load_explicit(&c->words[flow_id], memory_order_relaxed)
						    : 0;
}

#endif
