/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Records in a circular buffer: each has an 8-byte header (type, length) and is padded to 8
 * bytes. One that would cross the end is preceded by a filler to the end, so that records
 * are contiguous. Indices run free and are masked on use.
 *
 * Memory: a ring is made for the worst burst, and going round would touch all of it though
 * there are never more than a few records. So the producer looks now and then, after STEP
 * bytes, and if it finds the ring empty, it begins at the start of the memory again.
 */
#include "service/ipc/recring.h"

#include <errno.h>
#include <stdlib.h>

#define FILLER UINT32_MAX
#define STEP 256

struct rec_header {
	uint32_t type, len;
};

static uint64_t rec_size(uint32_t len)
{
	return (sizeof(struct rec_header) + len + 7) & ~7ull;
}

int recring_open(struct recring *r, uint64_t size)
{
	if (size < 4096 || (size & (size - 1)))
		return -EINVAL;
	r->data = aligned_alloc(64, size);
	if (!r->data)
		return -ENOMEM;
	r->size = size;
	atomic_init(&r->head, 0);
	atomic_init(&r->tail, 0);
	r->tail_seen = r->head_seen = r->start = 0;
	return 0;
}

void recring_close(struct recring *r)
{
	free(r->data);
	r->data = NULL;
}

static struct rec_header *rec_at(struct recring *r, uint64_t pos)
{
	return (struct rec_header *)(r->data + ((pos - r->start) & (r->size - 1)));
}

/*
 * Where a record of @need bytes at @head may lie in the memory: as before, or at the start if it is time to look and
 * nothing is in the ring. The consumer reads `start` only for a record, which is there after a commit of ours.
 */
static uint64_t rec_place(struct recring *r, uint64_t head, uint64_t need)
{
	uint64_t at = (head - r->start) & (r->size - 1);

	if (at / STEP == (at + need) / STEP)
		return at;
	/* pairs with the release in recring_consume(): what was there is no longer read */
	r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
	if (r->tail_seen != head)
		return at;
	r->start = head;
	return 0;
}

/* head + what recring_reserve() has put there: kept in the record until commit, as nothing else is reserved meanwhile. */
void *recring_reserve(struct recring *r, uint32_t type, uint32_t len)
{
	uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed), need = rec_size(len);
	uint64_t to_end, skip;
	struct rec_header *h;

	if (need > r->size / 4 + 8)
		return NULL;
	to_end = r->size - rec_place(r, head, need);
	skip = to_end < need ? to_end : 0;
	if (head + skip + need - r->tail_seen > r->size) {
		/* pairs with the release in recring_consume(): what was there is no longer read */
		r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
		if (head + skip + need - r->tail_seen > r->size)
			return NULL;
	}
	if (skip)
		*rec_at(r, head) = (struct rec_header){FILLER, (uint32_t)(skip - sizeof *h)};
	h = rec_at(r, head + skip);
	*h = (struct rec_header){type, len};
	return h + 1;
}

void recring_commit(struct recring *r)
{
	uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
	struct rec_header *h = rec_at(r, head);

	if (h->type == FILLER) {
		head += rec_size(h->len);
		h = rec_at(r, head);
	}
	/* pairs with the acquire in recring_peek(): the record is whole */
	atomic_store_explicit(&r->head, head + rec_size(h->len), memory_order_release);
}

void *recring_peek(struct recring *r, uint32_t *type, uint32_t *len)
{
	uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
	struct rec_header *h;

	for (;;) {
		if (tail == r->head_seen) {
			/* pairs with the release in recring_commit() */
			r->head_seen = atomic_load_explicit(&r->head, memory_order_acquire);
			if (tail == r->head_seen)
				return NULL;
		}
		h = rec_at(r, tail);
		if (h->type != FILLER)
			break;
		tail += rec_size(h->len);
		atomic_store_explicit(&r->tail, tail, memory_order_release);
	}
	*type = h->type;
	*len = h->len;
	return h + 1;
}

void recring_consume(struct recring *r)
{
	uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

	/* pairs with the acquire in recring_reserve() */
	atomic_store_explicit(&r->tail, tail + rec_size(rec_at(r, tail)->len), memory_order_release);
}

bool recring_empty(struct recring *r)
{
	/* acquire: whoever finds a record may read it */
	return atomic_load_explicit(&r->head, memory_order_acquire) ==
	       atomic_load_explicit(&r->tail, memory_order_relaxed);
}
