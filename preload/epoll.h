/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Epoll instances: what epoll.c (waiting), ready.c (the ready list), interest.c (membership), ctl.c (epoll_ctl),
 * instance.c (their life), nest.c (instances inside others) and lend.c (others' use) share.
 *
 * Locks, in the order they may be taken: sock.lock, ep.lock; nest.c's own lock alone.
 */
#ifndef PRELOAD_EPOLL_H
#define PRELOAD_EPOLL_H

#include "preload/sock.h"

struct item_list {
	struct item *head, *tail;
};

struct ep {
	struct file file;
	/* what may be seen without a reference (brief.c) */
	_Atomic uint32_t briefs; /* brief connections in the kernel's set, or more */
	_Atomic uint32_t life;   /* which instance this memory is */
	_Atomic uint32_t share;  /* its place in the memory shared with children + 1, or 0 */
	_Atomic bool alone;      /* could not be mixed: its sockets stay with Linux */
	_Atomic bool lent;       /* another process uses it: its sockets stay with Linux */
	_Atomic int epfd;        /* one of its descriptors; use ep_fd() */
	struct lock lock;        /* the lists below */
	struct item_list ready;
	struct item *all;
	_Atomic uint32_t nready, users; /* users: items in USER */
	_Atomic uint32_t items, others; /* all items; the kernel's other members, or more: a close is not seen */
	_Atomic uint32_t plain, apart;  /* threads that sleep: in its kernel set; beside it (mixed) */
	_Atomic uint32_t inside;        /* threads that may have events of the kernel's set which nobody has seen yet */
	_Atomic uint32_t turns;
	_Atomic(struct core *) core; /* whose contexts it listens to */
	_Atomic uint64_t contexts;   /* bits */
	_Atomic int spare;           /* a duplicate of our own, made when its last descriptor was closed; or -1 */
	/* nest.c */
	_Atomic bool watched; /* somebody looks at the instance itself: another epoll, poll() */
	_Atomic bool mixed;   /* see nest.c */
	int kick;             /* eventfd; ep->lock */
	bool kicked;          /* ep->lock */
	void *pool_link;
};

/* Data of our own registrations. */
#define EP_MARK 0xf7a95a5a00000001ull      /* eventfds */
#define EP_MARK_SOCK 0xf7a95a5a00000002ull /* the service's socket */
#define EP_MARK_NEWS 0xf7a95a5a00000003ull /* core->news */
#define EP_TAG 0xf7a95a5b00000000ull       /* | item.tag */
#define EP_TAG_MASK 0xffffffff00000000ull
#define EP_FLAGS ((uint32_t)(EPOLLET | EPOLLONESHOT | EPOLLEXCLUSIVE | EPOLLWAKEUP))

extern _Atomic bool ep_tags_used;

/* A reference to a file that may be going: false if it has gone. Memory of files keeps its type. */
static inline bool file_hold(struct file *f)
{
	uint64_t refs = atomic_load_explicit(&f->refs, memory_order_relaxed);

	/* pairs with the release in file_put() */
	while (refs && !atomic_compare_exchange_weak_explicit(&f->refs, &refs, refs + 1, memory_order_acquire,
							      memory_order_relaxed))
		;
	return refs != 0;
}

static inline bool ep_has_sleepers(struct ep *ep)
{
	/* pairs with the increments in epoll.c, after which the ready list is looked at */
	return atomic_load_explicit(&ep->plain, memory_order_seq_cst) ||
	       atomic_load_explicit(&ep->apart, memory_order_seq_cst);
}

/* May the kernel's set hold anything of the application's? */
static inline bool ep_has_kernel(struct ep *ep)
{
	return atomic_load_explicit(&ep->others, memory_order_relaxed) ||
	       atomic_load_explicit(&ep->briefs, memory_order_relaxed) ||
	       atomic_load_explicit(&ep->items, memory_order_relaxed) !=
		       atomic_load_explicit(&ep->users, memory_order_relaxed);
}

/* ---- instance.c ---- */

/* A descriptor of the instance that is open at present, or -1. */
int ep_fd(struct ep *ep);
/* The kernel's set holds what the application put into it, and nothing of ours. */
void ep_plain(struct ep *ep);
/* Listen to a context of @c. ep->lock not held. */
bool ep_listen(struct ep *ep, struct core *c, uint32_t context);

/* ---- ready.c ---- */

void ep_wake(struct ep *ep);
/*
 * Append to the ready list if it is not there and wake sleepers unless @ep is @self. s->lock
 * held. Returns true if somebody waits there.
 */
bool item_queue(struct item *it, struct ep *self);
/* ep->lock held. */
void item_append(struct item *it); /* it is not there; nobody is woken */
void item_unqueue(struct item *it);
/* Take the bells of the instance's contexts. */
void ep_take(struct ep *ep);
/*
 * Turn ready items into events. Returns how many, or -EFAULT. If there is none, *@late (unless @late is NULL) may become
 * a socket on its way, with a reference: when it has arrived there may be events.
 */
int ep_collect(struct ep *ep, struct epoll_event *events, int max, struct sock **late);
/* Drop what is no longer ready from the head of the list. */
void ep_refresh(struct ep *ep);
/* Every adopted item goes to the ready list: their service has gone. */
void ep_all_failed(struct ep *ep);

/* ---- interest.c ---- */

struct item *item_find(const struct sock *s, const struct ep *ep, int fd);
/* A new item, with ep->lock held; or NULL, without. s->lock held. */
struct item *item_add(struct sock *s, struct ep *ep, int fd, const struct epoll_event *ev);
/* Register it in the kernel's set, or change that (@op). ep->lock and s->lock held. Returns 0, or -1 with errno. */
int item_kernel(struct item *it, int op);
/* s->lock held. Takes it out of both lists. */
void item_remove(struct item *it);
void item_child(void);
/* The kernel's set knows the items of @s, which is Linux's, by the application's own data. s->lock held. */
void ep_items_plain(struct sock *s);
/*
 * @fd, whose socket is @s, is in the kernel's set of @ep by the application's own data (NULL: not any more): a brief
 * connection has become @s. The other one: s->lock held.
 */
void ep_item_note(struct sock *s, struct ep *ep, int fd, const struct epoll_event *ev);
void ep_item_note_locked(struct sock *s, struct ep *ep, int fd, const struct epoll_event *ev);
/* What the kernel's set has of @s is not known for certain: nobody may take it from there. */
void item_doubt(struct sock *s);
/* The item of a tag that the kernel gave back for @ep: its data, and it is disabled. False: it is no member now. */
bool item_fired(struct ep *ep, uint32_t tag, uint64_t *data);

/* ---- lend.c ---- */

/* Another process, or something else that we cannot see, uses the instance: its sockets go back to Linux for good. */
void ep_lend(struct ep *ep);
/* The socket goes back to Linux for good. s->lock not held. */
void ep_leave(struct sock *s);

/* Call in every call on the instance: has a child said that it uses it? */
void lend_check_slow(struct ep *ep);
static inline void lend_check(struct ep *ep)
{
	if (unlikely(atomic_load_explicit(&ep->share, memory_order_relaxed)))
		lend_check_slow(ep);
}
/* A forked child is about to use the parent's instance @f (FILE_LENT). */
void lend_use(struct file *f, int epfd);
void lend_start(void);
void lend_child(void);

/* ---- nest.c ---- */

/* Somebody looks at the instance itself. */
void ep_watch(struct ep *ep);
/* Make it mixed if it is watched. False: impossible. */
bool ep_mix(struct ep *ep);
/* Must waiting for it look beyond its own set and list? */
bool nest_any(const struct ep *ep);
void nest_child(void);
/* ep->lock held. */
void ep_kick(struct ep *ep);
void ep_unkick(struct ep *ep);
/* @inner becomes, or ceases to be, a member of @outer. */
bool nest_add(struct ep *outer, struct ep *inner, int fd);
void nest_remove(struct ep *outer, struct ep *inner, int fd);
void nest_closed(struct ep *ep);
/* Bring the instances below @ep (and @ep itself, if @self) up to date, and collect whose contexts they listen to. */
void nest_refresh(struct ep *ep, bool self, struct core **core, uint64_t *contexts);

#endif
