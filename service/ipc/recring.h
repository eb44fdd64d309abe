/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A ring of variable-sized records between two threads of the service: one producer, one
 * consumer, bounded memory, nothing allocated after open, and of that no more touched than was
 * ever in use at a time, and a little. Carries the slow path's commands down to a fast thread
 * and frames and events up.
 *
 *   producer: recring_reserve -> fill -> recring_commit (many may be reserved one by one)
 *   consumer: recring_peek -> use in place -> recring_consume
 *
 * Sleeping is the caller's: producer commits, full fence, reads the consumer's armed flag.
 */
#ifndef SERVICE_IPC_RECRING_H
#define SERVICE_IPC_RECRING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct recring {
	_Alignas(64) _Atomic uint64_t head; /* producer's, bytes ever written; pairs with the acquire in recring_peek */
	uint64_t tail_seen;                 /* producer's copy of tail */
	_Alignas(64) _Atomic uint64_t tail; /* consumer's, bytes ever read; pairs with the acquire in recring_reserve */
	uint64_t head_seen;                 /* consumer's copy of head */
	_Alignas(64) uint8_t *data;
	uint64_t size;  /* power of two */
	uint64_t start; /* the index that lies at the start of data: set by the producer while the ring is empty */
};

/* @size: bytes, a power of two, at least 4096. Returns 0 or -ENOMEM. */
int recring_open(struct recring *r, uint64_t size);
void recring_close(struct recring *r);

/*
 * Room for one record of @type with @len bytes (len <= size / 4), 8-byte aligned, or NULL if
 * it is full now. Nothing is visible before recring_commit().
 */
void *recring_reserve(struct recring *r, uint32_t type, uint32_t len);
void recring_commit(struct recring *r);

/* The oldest record, or NULL. Valid until recring_consume(), which frees it. */
void *recring_peek(struct recring *r, uint32_t *type, uint32_t *len);
void recring_consume(struct recring *r);
bool recring_empty(struct recring *r);

#endif
