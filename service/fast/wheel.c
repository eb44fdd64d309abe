/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The timer bitmap wheel. Fast thread; memory is reserved once and touched as flows use it.
 * Invariant: a slot's bit in `busy` is set if its bitmap has a member; every registered
 * tick lies in [tick, tick + WHEEL_SLOTS).
 */
#include "service/fast/wheel.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

int wheel_open(struct wheel *w, uint32_t max_flows, uint64_t now_tick)
{
	size_t words = flowset_words(max_flows), size = words * WHEEL_SLOTS * sizeof(uint64_t);
	void *m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (m == MAP_FAILED)
		return -ENOMEM;
	memset(w, 0, sizeof *w);
	w->tick = now_tick;
	w->memory = m;
	w->memory_size = size;
	for (uint32_t i = 0; i < WHEEL_SLOTS; i++)
		flowset_init(&w->slot[i], w->memory + i * words, max_flows);
	return 0;
}

void wheel_close(struct wheel *w)
{
	if (w->memory)
		munmap(w->memory, w->memory_size);
	w->memory = NULL;
}

uint64_t wheel_set(struct wheel *w, uint32_t flow, uint64_t tick)
{
	uint32_t i;

	if (tick < w->tick)
		tick = w->tick;
	if (tick >= w->tick + WHEEL_SLOTS)
		tick = w->tick + WHEEL_SLOTS - 1;
	i = tick % WHEEL_SLOTS;
	flowset_add(&w->slot[i], flow);
	w->busy[i / 64] |= 1ull << (i % 64);
	return tick;
}

uint64_t wheel_next(const struct wheel *w)
{
	uint32_t start = w->tick % WHEEL_SLOTS;

	for (uint32_t k = 0; k <= WHEEL_SLOTS / 64; k++) {
		uint32_t b = (start / 64 + k) % (WHEEL_SLOTS / 64), i;
		uint64_t bits = w->busy[b];

		if (k == 0)
			bits &= ~0ull << (start % 64);
		else if (k == WHEEL_SLOTS / 64)
			bits &= ~(~0ull << (start % 64));
		if (!bits)
			continue;
		i = b * 64 + (uint32_t)__builtin_ctzll(bits);
		return w->tick + ((i - start) & (WHEEL_SLOTS - 1));
	}
	return WHEEL_NEVER;
}

static uint32_t wheel_take_slot(struct wheel *w, uint32_t i, uint32_t *out, uint32_t max)
{
	uint32_t n = 0, flow = 0;

	while (n < max && (flow = flowset_next(&w->slot[i], flow)) != FLOWSET_NONE) {
		flowset_del(&w->slot[i], flow);
		out[n++] = flow++;
	}
	if (!flowset_any(&w->slot[i]))
		w->busy[i / 64] &= ~(1ull << (i % 64));
	return n;
}

uint32_t wheel_take(struct wheel *w, uint64_t now_tick, uint32_t *out, uint32_t max)
{
	uint32_t n = 0;

	while (w->tick <= now_tick && n < max) {
		uint64_t next = wheel_next(w);

		if (next > now_tick) { /* nothing due: the clock may have jumped far */
			w->tick = now_tick + 1;
			break;
		}
		w->tick = next;
		n += wheel_take_slot(w, next % WHEEL_SLOTS, out + n, max - n);
		if (!(w->busy[next % WHEEL_SLOTS / 64] >> (next % 64) & 1))
			w->tick = next + 1;
	}
	return n;
}
