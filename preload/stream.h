/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bytes of one adopted connection: its two circular buffers and the cursors in its slot.
 * Reading may be done by any number of threads (each claims what it copied by a compare and
 * exchange of rcv_read); writing must be serialised by the caller.
 */
#ifndef PRELOAD_STREAM_H
#define PRELOAD_STREAM_H

#include <sys/types.h>
#include <sys/uio.h>

#include "preload/core.h"

struct stream {
	struct core *core;
	struct ipc_slot *slot;
	uint8_t *rx, *tx;
	int rx_region, tx_region; /* places in core->region, or -1: the core's own memory */
	uint32_t rx_size, tx_size;
	uint32_t index, thread, flow_id; /* slot, fast thread */
	_Atomic bool local;              /* the peer is on this host: see local.h */
	bool corked;                     /* TCP_CORK, as opposed to MSG_MORE */
	_Atomic uint32_t lowat;          /* TCP_NOTSENT_LOWAT; 0: none */
	_Atomic uint64_t rung_read;      /* rcv_read when the service was last told of it */
};

#define STREAM_PEEK 1u    /* leave the bytes */
#define STREAM_DISCARD 2u /* do not copy */

/*
 * The slot's status is IPC_FAST: take over its buffers. Returns 0, -EPROTO if they do not lie in the memory, -EDEADLK: in
 * a signal handler, later, or another -errno: there is memory that cannot be had here.
 */
int stream_open(struct stream *st, struct core *c, uint32_t slot);
void stream_close(struct stream *st); /* no thread looks at them any more; also if it was never opened */

/*
 * Copy out at most what there is, into @iov from its @skip-th byte on; with STREAM_PEEK, of the stream's @skip-th unread
 * byte on, too. Returns bytes, 0 if there is nothing now, -EFAULT: nothing was taken, or -ESTALE: its record is closed.
 */
ssize_t stream_read(struct stream *st, const struct iovec *iov, int cnt, size_t skip, uint32_t flags);
/* Where at most @max of the unread bytes lie now. They stay; a read may take them meanwhile. Returns the pieces, 0 to 2. */
int stream_unread_iov(const struct stream *st, struct iovec out[2], size_t max);
/*
 * Copy in what there is room for and tell the service. Skips the first @skip bytes of @iov.
 * @more: more will follow at once (MSG_MORE). Returns bytes, 0 if there is no room, or, with nothing taken: -EFAULT, or
 * -ESTALE: its record is closed.
 */
ssize_t stream_write(struct stream *st, const struct iovec *iov, int cnt, size_t skip, bool more);
/* Ask for a ring of the context when a third of the transmit buffer is free. Returns true if it is free now. */
bool stream_want_space(struct stream *st);
void stream_opts_set(struct stream *st, uint32_t set, uint32_t clear);
/* A number beside the record has changed. */
void stream_opts_changed(struct stream *st);

static inline void stream_ring(struct stream *st)
{
	core_ring(st->core, st->index, st->thread);
}

static inline uint32_t stream_status(const struct stream *st)
{
	/* pairs with the service's release store */
	return atomic_load_explicit(&st->slot->status, memory_order_acquire);
}

/* Does the service carry it? Not if its record is closed, and its fate is open or elsewhere. */
static inline bool stream_is_open(const struct stream *st)
{
	uint32_t state = IPC_STATE(stream_status(st));

	return state == IPC_FAST || state == IPC_DEAD;
}

/* And are these halves (IPC_HALF_*) ours? */
static inline bool stream_has(const struct stream *st, uint32_t halves)
{
	uint32_t status = stream_status(st);

	return (IPC_STATE(status) == IPC_FAST || IPC_STATE(status) == IPC_DEAD) && !(IPC_AWAY(status) & halves);
}

/* From here on the service sees which halves are used: another process that needs one may get what is not. */
static inline void stream_mark(struct stream *st)
{
	atomic_store_explicit(&st->slot->mark_snd, (uint32_t)atomic_load(&st->slot->snd_end), memory_order_relaxed);
	atomic_store_explicit(&st->slot->mark_read, (uint32_t)atomic_load(&st->slot->rcv_read), memory_order_relaxed);
}

/* The receiving half counts as used from now on. */
static inline void stream_mark_used(struct stream *st)
{
	atomic_store_explicit(&st->slot->mark_read, ~(uint32_t)atomic_load(&st->slot->rcv_end), memory_order_relaxed);
}

static inline uint64_t stream_unread(const struct stream *st)
{
	uint64_t read = atomic_load_explicit(&st->slot->rcv_read, memory_order_relaxed);
	/* pairs with the service's release store after it has copied the payload */
	uint64_t end = atomic_load_explicit(&st->slot->rcv_end, memory_order_acquire);

	return end > read ? end - read : 0;
}

/* Bytes in the transmit buffer. */
static inline uint64_t stream_held(const struct stream *st)
{
	/* pairs with the service's release store: nobody reads these bytes any more */
	uint64_t acked = atomic_load_explicit(&st->slot->snd_acked, memory_order_acquire);
	uint64_t end = atomic_load_explicit(&st->slot->snd_end, memory_order_relaxed);

	return end > acked ? end - acked : 0;
}

/* Bytes that have not been sent yet. */
static inline uint64_t stream_unsent(const struct stream *st)
{
	uint64_t sent = atomic_load_explicit(&st->slot->snd_sent, memory_order_relaxed);
	uint64_t end = atomic_load_explicit(&st->slot->snd_end, memory_order_relaxed);

	return end > sent ? end - sent : 0;
}

/* Bytes that the peer does not have yet; of a buffer that it reads itself, those that it has not been told of. */
static inline uint64_t stream_unacked(const struct stream *st)
{
	return st->tx_region < 0 ? stream_held(st) : stream_unsent(st);
}

static inline uint32_t stream_space(const struct stream *st)
{
	uint64_t used = stream_held(st);

	return used < st->tx_size ? (uint32_t)(st->tx_size - used) : 0;
}

/* What may be written now. */
uint32_t stream_room_lowat(const struct stream *st, uint32_t lowat);
static inline uint32_t stream_room(const struct stream *st)
{
	uint32_t lowat = atomic_load_explicit(&st->lowat, memory_order_relaxed);

	return likely(!lowat) ? stream_space(st) : stream_room_lowat(st, lowat);
}

/* As Linux says EPOLLOUT: a third of the buffer is free, and less than half of TCP_NOTSENT_LOWAT is unsent. */
static inline bool stream_writable(const struct stream *st)
{
	uint32_t lowat = atomic_load_explicit(&st->lowat, memory_order_relaxed);

	return stream_space(st) >= st->tx_size / 3 && (!lowat || 2 * stream_unsent(st) < lowat);
}

#endif
