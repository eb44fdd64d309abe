/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rings: memory of one direction of a local connection that both of its applications have mapped. The transmit buffer of
 * one end is the receive buffer of the other one, so nothing is copied in between; the fast thread moves the cursors
 * alone. Each pair of applications has a sealed memfd of its own, from which all rings between them are made, so nobody
 * else can read them. Only applications of one user become a pair. Main thread.
 *
 * A ring is the transmitting end's: when that end goes to another process its buffer is another one, as a thread may
 * still be writing here. What an application has in its mapping it can only spoil for itself: all cursors go by the
 * service, which checks them.
 */
#ifndef SERVICE_SLOW_RING_H
#define SERVICE_SLOW_RING_H

#include <stdbool.h>
#include <stdint.h>

struct slow;
struct app;
struct pair;

struct ring {
	struct pair *pair;
	uint64_t off; /* in the pair's memory */
	uint32_t size;
	uint32_t uses;     /* connections that have it as a buffer, and slots where it is parked */
	struct ring *next; /* unused ones of a size */
};

/* A ring of @size bytes, a power of two, between @a and @b, which may be one. With one use. NULL: there can be none. */
struct ring *ring_new(struct slow *s, struct app *a, struct app *b, uint32_t size);
struct ring *ring_hold(struct ring *r);
void ring_put(struct slow *s, struct ring *r); /* @r may be NULL */
uint8_t *ring_buf(const struct ring *r);
/* What applications call the memory that it is in, never 0; and its place + 1 among the fast threads' regions. */
uint32_t ring_id(const struct ring *r);
uint32_t ring_region(const struct ring *r);
/* Is @a one of the two? */
bool ring_is_of(const struct ring *r, const struct app *a);

/* The memory that is called @id, if @a is one of its two: the descriptor, which stays the pair's, or -ENOENT. */
int pair_memory(const struct slow *s, const struct app *a, uint32_t id, uint64_t *size);
/* @a has ended, and has no connection and no parked buffer any more. */
void pairs_forget(struct slow *s, const struct app *a);
void pairs_close(struct slow *s); /* the fast threads have ended */

#endif
