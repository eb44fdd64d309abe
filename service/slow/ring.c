/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See ring.h. Not in a packet's way. Main thread. */
#include "service/slow/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "service/slow/internal.h"

#define PAIR_BYTES (256ull << 20) /* of address space: memory is taken when it is used */

struct pair {
	uint32_t id, place;      /* place: in slow.pairs */
	const struct app *a, *b; /* NULL: has ended */
	int fd;
	uint8_t *buf;
	uint64_t next;           /* bytes never handed out start here */
	struct ring *unused[32]; /* by log2(size) */
	uint32_t rings;          /* in use */
};

/* ---- pairs ---- */

static struct pair *pair_find(const struct slow *s, const struct app *a, const struct app *b)
{
	for (uint32_t i = 0; i < SLOW_PAIRS; i++) {
		struct pair *p = s->pairs[i];

		if (p && ((p->a == a && p->b == b) || (p->a == b && p->b == a)))
			return p;
	}
	return NULL;
}

static void pair_announce(struct slow *s, const struct pair *p)
{
	struct fast_region r = {.index = p->place, .buf = p->buf, .size = PAIR_BYTES};

	for (uint32_t t = 0; t < fast_threads(s->env.fast); t++)
		down_send(s, t, CMD_REGION, &r, sizeof r);
}

static struct pair *pair_new(struct slow *s, const struct app *a, const struct app *b)
{
	uint32_t place = 0;
	struct pair *p;

	while (place < SLOW_PAIRS && s->pairs[place])
		place++;
	p = place < SLOW_PAIRS ? calloc(1, sizeof *p) : NULL;
	if (!p)
		return NULL;
	p->fd = app_memory("tapas-pair", PAIR_BYTES, (void **)&p->buf);
	if (p->fd < 0) {
		free(p);
		return NULL;
	}
	if (!++s->pair_id)
		s->pair_id = 1;
	p->id = s->pair_id;
	p->place = place;
	p->a = a;
	p->b = b;
	s->pairs[place] = p;
	pair_announce(s, p);
	return p;
}

/* No flow is in it: the fast threads only look where a flow points. */
static void pair_free(struct slow *s, struct pair *p)
{
	struct ring *r;

	/* applications may keep it mapped for a while, but then it holds nothing */
	madvise(p->buf, PAIR_BYTES, MADV_REMOVE);
	munmap(p->buf, PAIR_BYTES);
	close(p->fd);
	for (uint32_t k = 0; k < ARRAY_SIZE(p->unused); k++)
		while ((r = p->unused[k])) {
			p->unused[k] = r->next;
			free(r);
		}
	s->pairs[p->place] = NULL;
	free(p);
}

static void pair_free_if_over(struct slow *s, struct pair *p)
{
	if (!p->rings && (!p->a || !p->b))
		pair_free(s, p);
}

int pair_memory(const struct slow *s, const struct app *a, uint32_t id, uint64_t *size)
{
	for (uint32_t i = 0; i < SLOW_PAIRS; i++) {
		const struct pair *p = s->pairs[i];

		if (p && p->id == id && (p->a == a || p->b == a)) {
			*size = PAIR_BYTES;
			return p->fd;
		}
	}
	return -ENOENT;
}

void pairs_forget(struct slow *s, const struct app *a)
{
	for (uint32_t i = 0; i < SLOW_PAIRS; i++) {
		struct pair *p = s->pairs[i];

		if (!p || (p->a != a && p->b != a))
			continue;
		p->a = p->a == a ? NULL : p->a;
		p->b = p->b == a ? NULL : p->b;
		pair_free_if_over(s, p);
	}
}

void pairs_close(struct slow *s)
{
	for (uint32_t i = 0; i < SLOW_PAIRS; i++)
		if (s->pairs[i])
			pair_free(s, s->pairs[i]);
}

/* ---- rings ---- */

static struct ring *ring_make(struct pair *p, uint32_t size)
{
	struct ring *r = PAIR_BYTES - p->next >= size ? calloc(1, sizeof *r) : NULL;

	if (!r)
		return NULL;
	*r = (struct ring){.pair = p, .off = p->next, .size = size};
	p->next += size;
	return r;
}

struct ring *ring_new(struct slow *s, struct app *a, struct app *b, uint32_t size)
{
	unsigned k = (unsigned)__builtin_ctz(size);
	struct pair *p;
	struct ring *r;

	if (a->uid != b->uid || a->dying || b->dying)
		return NULL;
	p = pair_find(s, a, b);
	if (!p)
		p = pair_new(s, a, b);
	if (!p)
		return NULL;
	r = p->unused[k];
	if (r)
		p->unused[k] = r->next;
	else
		r = ring_make(p, size);
	if (!r)
		return NULL;
	p->rings++;
	r->uses = 1;
	return r;
}

struct ring *ring_hold(struct ring *r)
{
	r->uses++;
	return r;
}

void ring_put(struct slow *s, struct ring *r)
{
	unsigned k;

	if (!r || --r->uses)
		return;
	k = (unsigned)__builtin_ctz(r->size);
	r->next = r->pair->unused[k];
	r->pair->unused[k] = r;
	r->pair->rings--;
	pair_free_if_over(s, r->pair);
}

uint8_t *ring_buf(const struct ring *r)
{
	return r->pair->buf + r->off;
}

uint32_t ring_id(const struct ring *r)
{
	return r->pair->id;
}

uint32_t ring_region(const struct ring *r)
{
	return r->pair->place + 1;
}

bool ring_is_of(const struct ring *r, const struct app *a)
{
	return r->pair->a == a || r->pair->b == a;
}
