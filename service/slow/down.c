/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Down to the fast threads. A command changes the state of a flow and may not be lost: when a
 * thread's ring is full it waits here, and everything after it waits behind it, so order
 * holds. Frames are packets and may be lost like packets.
 */
#include "service/slow/internal.h"

#include <stdlib.h>
#include <string.h>

static bool down_put(struct slow *s, uint32_t thread, enum fast_cmd cmd, const void *data, uint32_t len)
{
	struct recring *r = fast_down(s->env.fast, thread);
	void *rec = recring_reserve(r, cmd, len);

	if (!rec)
		return false;
	memcpy(rec, data, len);
	recring_commit(r);
	fast_kick(s->env.fast, thread);
	return true;
}

void down_send(struct slow *s, uint32_t thread, enum fast_cmd cmd, const void *data, uint32_t len)
{
	struct down_wait *w;

	if (!s->down_head[thread] && down_put(s, thread, cmd, data, len))
		return;
	w = malloc(sizeof *w + len);
	if (!w)
		return; /* the sweep asks again for whatever matters */
	w->next = NULL;
	w->cmd = cmd;
	w->len = len;
	memcpy(w->data, data, len);
	if (!s->down_head[thread])
		s->down_tail[thread] = &s->down_head[thread];
	*s->down_tail[thread] = w;
	s->down_tail[thread] = &w->next;
}

bool down_frame(struct slow *s, uint32_t thread, enum fast_cmd cmd, const uint8_t *frame, uint32_t len)
{
	return !s->down_head[thread] && down_put(s, thread, cmd, frame, len);
}

void down_retry(struct slow *s)
{
	for (uint32_t t = 0; t < fast_threads(s->env.fast); t++) {
		struct down_wait *w;

		while ((w = s->down_head[t]) && down_put(s, t, w->cmd, w->data, w->len)) {
			s->down_head[t] = w->next;
			free(w);
		}
	}
}

void down_close(struct slow *s)
{
	for (uint32_t t = 0; t < IPC_THREADS; t++) {
		struct down_wait *w;

		while ((w = s->down_head[t])) {
			s->down_head[t] = w->next;
			free(w);
		}
	}
}
