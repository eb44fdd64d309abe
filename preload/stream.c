/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies between the application's memory and the circular buffers of an adopted connection.
 * Place in the packet's way: last for what is received, first for what is sent. Any thread;
 * see stream.h for who may write.
 *
 * Invariants: both cursors move by compare and exchange only: once the service has closed the
 * record (IPC_FROZEN) nothing is taken any more. rcv_read never passes a rcv_end that was read with acquire before the copy;
 * snd_end is published with release after the copy and never exceeds snd_acked + tx_size.
 * Requests and answers cost one bell each (the send's): reading rings only when it has opened
 * the window by a quarter of the buffer, or when the window was nearly shut.
 */
#define _GNU_SOURCE 1
#include "preload/stream.h"

#include <errno.h>
#include <string.h>

#include "preload/user.h"

static bool piece_ok(uint64_t have, uint64_t off, uint32_t size)
{
	return size && !(size & (size - 1)) && off < have && size <= have - off;
}

/* Where the piece is mapped. *@region: as in struct stream. */
static int piece_find(struct core *c, uint32_t id, uint64_t off, uint32_t size, int *region, uint8_t **out)
{
	*region = id ? core_region_get(c, id) : -1;
	if (id && *region < 0)
		return *region;
	*out = (id ? c->region[*region].map : c->buf) + off;
	return piece_ok(id ? c->region[*region].size : c->buf_size, off, size) ? 0 : -EPROTO;
}

void stream_close(struct stream *st)
{
	if (!st->core)
		return;
	if (st->rx_region >= 0)
		core_region_put(st->core, (uint32_t)st->rx_region);
	if (st->tx_region >= 0)
		core_region_put(st->core, (uint32_t)st->tx_region);
	st->rx_region = st->tx_region = -1;
}

int stream_open(struct stream *st, struct core *c, uint32_t slot)
{
	struct ipc_slot *s = core_slot(c, slot);
	int err;

	stream_close(st); /* a half that has come back: the other one was here all the time */
	st->core = c;
	st->rx_region = st->tx_region = -1;
	if (s->thread >= IPC_THREADS)
		return -EPROTO;
	err = piece_find(c, s->rx_region, s->rx_off, s->rx_size, &st->rx_region, &st->rx);
	if (!err)
		err = piece_find(c, s->tx_region, s->tx_off, s->tx_size, &st->tx_region, &st->tx);
	if (err) {
		stream_close(st);
		return err;
	}
	st->slot = s;
	st->rx_size = s->rx_size;
	st->tx_size = s->tx_size;
	st->index = slot;
	st->thread = s->thread;
	st->flow_id = s->flow_id;
	st->local = s->local;
	st->corked = atomic_load_explicit(&s->opts, memory_order_relaxed) & IPC_OPT_CORK;
	atomic_init(&st->rung_read, atomic_load_explicit(&s->rcv_read, memory_order_relaxed));
	return 0;
}

/* TCP_NOTSENT_LOWAT: so much is taken, and what the service will send at once. */
uint32_t stream_room_lowat(const struct stream *st, uint32_t lowat)
{
	uint64_t unsent = stream_unsent(st), flying = stream_unacked(st) - MIN(unsent, stream_unacked(st));
	uint64_t wnd = atomic_load_explicit(&st->slot->peer_wnd, memory_order_relaxed);
	uint64_t cwnd = atomic_load_explicit(&st->slot->cwnd_bytes, memory_order_relaxed), may = MIN(wnd, cwnd);

	may = unsent < lowat ? lowat - unsent + (may > flying ? may - flying : 0) : 0;
	return (uint32_t)MIN((uint64_t)stream_space(st), may);
}

static void copy_out(const struct stream *st, void *to, uint64_t off, size_t n)
{
	size_t at = off & (st->rx_size - 1), first = MIN(n, st->rx_size - at);

	memcpy(to, st->rx + at, first);
	memcpy((char *)to + first, st->rx, n - first);
}

static void copy_in(const struct stream *st, uint64_t off, const void *from, size_t n)
{
	size_t at = off & (st->tx_size - 1), first = MIN(n, st->tx_size - at);

	memcpy(st->tx + at, from, first);
	memcpy(st->tx, (const char *)from + first, n - first);
}

/* Fill @iov from its @skip-th byte on. A bad address anywhere: -EFAULT, and none of it counts. */
static ssize_t read_iov(const struct stream *st, const struct iovec *iov, int cnt, size_t skip, uint64_t off,
			uint64_t have, bool discard)
{
	size_t done = 0;

	for (int i = 0; i < cnt && done < have; i++) {
		size_t len = iov[i].iov_len, n;
		char *to = (char *)iov[i].iov_base + skip;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		n = MIN(len - skip, (size_t)have - done);
		skip = 0;
		if (!discard) {
			if (unlikely(!user_writable(to, n)))
				return -EFAULT;
			copy_out(st, to, off + done, n);
		}
		done += n;
	}
	return (ssize_t)done;
}

static void ring_if_useful(struct stream *st, uint64_t read, uint64_t unread)
{
	uint64_t rung = atomic_load_explicit(&st->rung_read, memory_order_relaxed);

	if (read - rung < st->rx_size / 4 && unread < st->rx_size - st->rx_size / 8)
		return;
	atomic_store_explicit(&st->rung_read, read, memory_order_relaxed);
	stream_ring(st);
}

ssize_t stream_read(struct stream *st, const struct iovec *iov, int cnt, size_t skip, uint32_t flags)
{
	for (;;) {
		uint64_t read = atomic_load_explicit(&st->slot->rcv_read, memory_order_acquire);
		/* pairs with the service's release store after it has copied the payload */
		uint64_t end = atomic_load_explicit(&st->slot->rcv_end, memory_order_acquire);
		ssize_t n;

		if (unlikely(read & IPC_FROZEN))
			return -ESTALE;
		if (end <= read)
			return 0;
		if (end - read > st->rx_size)
			end = read + st->rx_size;
		if (!(flags & STREAM_PEEK))
			n = read_iov(st, iov, cnt, skip, read, end - read, flags & STREAM_DISCARD);
		else if (end - read <= skip)
			n = 0;
		else /* what was peeked before is still there */
			n = read_iov(st, iov, cnt, skip, read + skip, end - read - skip, flags & STREAM_DISCARD);
		if (n <= 0 || (flags & STREAM_PEEK))
			return n;
		/* release: the service may overwrite these bytes only after we have copied them */
		if (atomic_compare_exchange_strong_explicit(&st->slot->rcv_read, &read, read + (uint64_t)n,
							    memory_order_release, memory_order_relaxed)) {
			ring_if_useful(st, read + (uint64_t)n, end - read);
			return n;
		}
	}
}

int stream_unread_iov(const struct stream *st, struct iovec out[2], size_t max)
{
	uint64_t read = atomic_load_explicit(&st->slot->rcv_read, memory_order_relaxed);
	size_t n = MIN(MIN(stream_unread(st), (uint64_t)st->rx_size), (uint64_t)max), at = read & (st->rx_size - 1);
	size_t first = MIN(n, st->rx_size - at);

	if (!n || (read & IPC_FROZEN))
		return 0;
	out[0] = (struct iovec){st->rx + at, first};
	out[1] = (struct iovec){st->rx, n - first};
	return n > first ? 2 : 1;
}

/* There is room again: stop asking, but tell those who wait for it, as the service no longer will. */
static void space_found(struct stream *st)
{
	uint32_t i = atomic_load_explicit(&st->slot->context, memory_order_relaxed) % IPC_CONTEXTS;

	atomic_store_explicit(&st->slot->want, 0, memory_order_relaxed);
	bell_ring(&st->core->shm->context[i].bell, st->index);
	/* the flag is left as it is: a thread that leaves by longjmp before it writes must not have taken it */
	if (atomic_load_explicit(&st->core->shm->context[i].armed, memory_order_seq_cst))
		core_context_wake(st->core, i);
}

/*
 * Where the other end reads what is being written, the service must know who still writes after it has closed the record
 * (local_is_written_there()): it sees the mark, or we see IPC_FROZEN.
 */
static void copy_begin(struct stream *st)
{
	if (st->tx_region >= 0)
		atomic_fetch_add_explicit(&st->slot->busy, IPC_BUSY_COPY, memory_order_seq_cst);
}

static void copy_end(struct stream *st)
{
	if (st->tx_region >= 0)
		atomic_fetch_sub_explicit(&st->slot->busy, IPC_BUSY_COPY, memory_order_release);
}

static ssize_t write_iov(struct stream *st, const struct iovec *iov, int cnt, size_t skip, bool more)
{
	uint64_t end = atomic_load_explicit(&st->slot->snd_end, memory_order_seq_cst);
	size_t space = stream_space(st), room = stream_room(st), done = 0;
	uint64_t expected = end;
	uint32_t opts = atomic_load_explicit(&st->slot->opts, memory_order_relaxed), cork;

	if (unlikely(end & IPC_FROZEN))
		return -ESTALE;
	for (int i = 0; i < cnt && done < room; i++) {
		const char *from = iov[i].iov_base;
		size_t len = iov[i].iov_len, n;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		n = MIN(len - skip, room - done);
		if (unlikely(!user_readable(from + skip, n)))
			return -EFAULT; /* nothing of this call has been told to the service yet */
		copy_in(st, end + done, from + skip, n);
		skip = 0;
		done += n;
	}
	if (!done)
		return 0;
	cork = more || st->corked ? IPC_OPT_CORK : 0;
	if ((opts & IPC_OPT_CORK) != cork && cork)
		atomic_fetch_or_explicit(&st->slot->opts, IPC_OPT_CORK, memory_order_relaxed);
	else if ((opts & IPC_OPT_CORK) != cork)
		atomic_fetch_and_explicit(&st->slot->opts, ~IPC_OPT_CORK, memory_order_relaxed);
	if (atomic_load_explicit(&st->slot->want, memory_order_relaxed) && space >= st->tx_size / 3 + done)
		space_found(st);
	/* release: pairs with the acquire in ipc_record_read() and ipc_record_freeze() */
	if (unlikely(!atomic_compare_exchange_strong_explicit(&st->slot->snd_end, &expected, end + done,
							      memory_order_release, memory_order_relaxed)))
		return -ESTALE;
	atomic_store_explicit(&st->rung_read, atomic_load_explicit(&st->slot->rcv_read, memory_order_relaxed),
			      memory_order_relaxed);
	stream_ring(st);
	return (ssize_t)done;
}

ssize_t stream_write(struct stream *st, const struct iovec *iov, int cnt, size_t skip, bool more)
{
	ssize_t n;

	copy_begin(st);
	n = write_iov(st, iov, cnt, skip, more);
	copy_end(st);
	return n;
}

/*
 * Rings each time, even if `want` is set already: the service may have decided for an earlier
 * shortage that we know of the room.
 */
bool stream_want_space(struct stream *st)
{
	if (stream_writable(st))
		return true;
	atomic_store_explicit(&st->slot->want, IPC_WANT_SPACE, memory_order_seq_cst);
	stream_ring(st); /* full barrier: the second look below is after it */
	return stream_writable(st);
}

void stream_opts_set(struct stream *st, uint32_t set, uint32_t clear)
{
	uint32_t now = atomic_load_explicit(&st->slot->opts, memory_order_relaxed), to;

	if ((set | clear) & IPC_OPT_CORK)
		st->corked = set & IPC_OPT_CORK;
	do {
		to = (now & ~clear) | set;
		if (to == now)
			return;
	} while (!atomic_compare_exchange_weak_explicit(&st->slot->opts, &now, to, memory_order_release,
							memory_order_relaxed));
	stream_ring(st);
}

void stream_opts_changed(struct stream *st)
{
	uint32_t now = atomic_load_explicit(&st->slot->opts, memory_order_relaxed);

	/* release: the numbers were stored before */
	while (!atomic_compare_exchange_weak_explicit(&st->slot->opts, &now,
						      (now & ~IPC_OPT_CHANGES) |
							      ((now + IPC_OPT_CHANGE) & IPC_OPT_CHANGES),
						      memory_order_release, memory_order_relaxed))
		;
	stream_ring(st);
}
