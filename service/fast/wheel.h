/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The timer bitmap wheel (AccelTCP's idea): 512 slots of a millisecond, each a bitmap over
 * flows. Registering a time-out sets a bit, expiry scans bits; there is no list and nothing
 * is ever moved. A bit is only a hint to look at a flow: the flow knows its deadlines, and a
 * later deadline than the registered one costs nothing until the bit comes up. A deadline
 * beyond the horizon is registered at the horizon and again from there. One thread.
 */
#ifndef SERVICE_FAST_WHEEL_H
#define SERVICE_FAST_WHEEL_H

#include <stddef.h>
#include <stdint.h>

#include "service/fast/flowset.h"

#define WHEEL_SLOTS 512u
#define WHEEL_NEVER UINT64_MAX

struct wheel {
	uint64_t tick; /* all slots before this one have been taken; milliseconds */
	uint64_t busy[WHEEL_SLOTS / 64];
	struct flowset slot[WHEEL_SLOTS];
	uint64_t *memory;
	size_t memory_size;
};

int wheel_open(struct wheel *w, uint32_t max_flows, uint64_t now_tick);
void wheel_close(struct wheel *w);
/* Have @flow looked at, at @tick or at the horizon, and not in the past. Returns the tick that was chosen. */
uint64_t wheel_set(struct wheel *w, uint32_t flow, uint64_t tick);
/*
 * Take up to @max flows whose slots are due at @now_tick. Fewer than @max: all were taken.
 */
uint32_t wheel_take(struct wheel *w, uint64_t now_tick, uint32_t *out, uint32_t max);
/* The first tick with a registration, or WHEEL_NEVER. */
uint64_t wheel_next(const struct wheel *w);

#endif
