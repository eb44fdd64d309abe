/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bytes through the loop: streams of reads, and writes. Place in a packet's way: every frame
 * between the service and the TAP. Main thread.
 *
 * The TAP is read by one multishot read with a ring of provided buffers (kernel 6.7 on):
 * frames complete in order, and a frame wakes one request instead of every read in flight.
 * On older kernels one read at a time is kept in flight through the same code. The writes of
 * a turn leave with one system call, in order, from buffers made at start.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "service/loop/internal.h"

#define STREAM_DEPTH_MAX 4096
#define WRITE_MAX 65536      /* beyond a buffer's size: written directly, what is queued leaves first */
#define OP_READ_MULTISHOT 49 /* IORING_OP_READ_MULTISHOT, newer than liburing 2.3 */

/* ---- streams of reads ---- */

static size_t stream_ring_size(uint32_t depth)
{
	return depth * sizeof(struct io_uring_buf);
}

static uint8_t *stream_buf(const struct stream *st, uint32_t bid)
{
	return st->mem + (size_t)bid * st->buf_size;
}

static void stream_buf_give(struct stream *st, uint32_t bid)
{
	io_uring_buf_ring_add(st->ring, stream_buf(st, bid), (unsigned)st->buf_size, (unsigned short)bid,
			      io_uring_buf_ring_mask(st->depth), 0);
	io_uring_buf_ring_advance(st->ring, 1);
}

void loop_stream_arm(struct loop *l, uint32_t index)
{
	struct stream *st = &l->stream[index];
	struct io_uring_sqe *sqe = st->retry_ns > l->now_ns ? NULL : loop_sqe(l);

	st->armed = sqe != NULL;
	if (!sqe) {
		l->unarmed++;
		return;
	}
	/* A multishot read takes its length from the buffer it selects and must say 0 itself. */
	io_uring_prep_rw(st->opcode, sqe, st->fd, NULL, st->opcode == OP_READ_MULTISHOT ? 0 : (unsigned)st->buf_size,
			 (uint64_t)-1);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = (uint16_t)index;
	io_uring_sqe_set_data64(sqe, request_data(REQ_STREAM, 0, index));
}

static int stream_buffers_open(struct loop *l, struct stream *st, uint32_t index)
{
	struct io_uring_buf_reg reg = {.ring_entries = st->depth, .bgid = (uint16_t)index};
	void *ring =
		mmap(NULL, stream_ring_size(st->depth), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int rc;

	if (ring == MAP_FAILED)
		return -ENOMEM;
	st->mem_size = st->depth * st->buf_size;
	st->mem = mmap(NULL, st->mem_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (st->mem == MAP_FAILED) {
		munmap(ring, stream_ring_size(st->depth));
		return -ENOMEM;
	}
	reg.ring_addr = (uint64_t)(uintptr_t)ring;
	rc = io_uring_register_buf_ring(&l->ring, &reg, 0);
	if (rc) {
		munmap(st->mem, st->mem_size);
		munmap(ring, stream_ring_size(st->depth));
		return rc;
	}
	st->ring = ring;
	io_uring_buf_ring_init(st->ring);
	for (uint32_t i = 0; i < st->depth; i++)
		stream_buf_give(st, i);
	return 0;
}

int loop_stream_reads(struct loop *l, int fd, unsigned depth, size_t size, loop_read_fn *cb, void *ctx)
{
	struct stream *st = NULL;
	uint32_t index;
	int rc;

	if (fd < 0 || !cb || !depth || depth > STREAM_DEPTH_MAX || !size || size > WRITE_MAX)
		return -EINVAL;
	for (index = 0; index < STREAMS_MAX && l->stream[index].cb; index++)
		;
	if (index == STREAMS_MAX)
		return -ENOBUFS;
	st = &l->stream[index];
	st->depth = 1;
	while (st->depth < depth)
		st->depth *= 2;
	st->buf_size = (size + CACHELINE - 1) & ~(size_t)(CACHELINE - 1);
	rc = stream_buffers_open(l, st, index);
	if (rc)
		return rc;
	st->fd = fd;
	st->cb = cb;
	st->ctx = ctx;
	st->opcode = OP_READ_MULTISHOT;
	loop_stream_arm(l, index);
	return 0;
}

/* A kernel without multishot reads gets single ones; other errors are told to the callback and tried again later. */
static void stream_failed(struct loop *l, struct stream *st, int res)
{
	if (res == -ENOBUFS || res == -EAGAIN || res == -EINTR)
		return;
	if (st->opcode == OP_READ_MULTISHOT && (res == -EINVAL || res == -EOPNOTSUPP)) {
		st->opcode = IORING_OP_READ;
		return;
	}
	st->retry_ns = l->now_ns + STREAM_RETRY_NS;
	st->cb(st->ctx, NULL, res);
}

void loop_stream_complete(struct loop *l, uint32_t index, int res, uint32_t flags)
{
	struct stream *st;

	if (index >= STREAMS_MAX || !l->stream[index].cb)
		return;
	st = &l->stream[index];
	if (flags & IORING_CQE_F_BUFFER) {
		uint32_t bid = flags >> IORING_CQE_BUFFER_SHIFT;

		if (res > 0)
			st->cb(st->ctx, stream_buf(st, bid), res);
		stream_buf_give(st, bid);
	}
	if (res < 0)
		stream_failed(l, st, res);
	else if (res == 0) /* end of file: look again later */
		st->retry_ns = l->now_ns + STREAM_RETRY_NS;
	if (!(flags & IORING_CQE_F_MORE))
		loop_stream_arm(l, index);
}

void loop_streams_close(struct loop *l)
{
	for (uint32_t i = 0; i < STREAMS_MAX; i++) {
		if (!l->stream[i].cb)
			continue;
		munmap(l->stream[i].mem, l->stream[i].mem_size);
		munmap(l->stream[i].ring, stream_ring_size(l->stream[i].depth));
	}
}

/* ---- writes ---- */

void loop_flush(struct loop *l)
{
	if (io_uring_sq_ready(&l->ring))
		io_uring_submit(&l->ring);
}

static int write_direct(struct loop *l, int fd, const void *data, size_t len)
{
	if (len > WRITE_MAX)
		return -EMSGSIZE;
	loop_flush(l);
	if (write(fd, data, len) >= 0)
		return 0;
	return errno == EAGAIN || errno == ENOMEM ? -ENOBUFS : -errno;
}

int loop_write(struct loop *l, int fd, const void *data, size_t len, uint64_t *failed)
{
	uint32_t index = l->write_free;
	struct io_uring_sqe *sqe;
	struct write_buf *wb;

	/* too long for a buffer, or a burst that took them all: what is queued leaves first, then this */
	if (len > WRITE_BUF_SIZE || index == NONE)
		return write_direct(l, fd, data, len);
	sqe = loop_sqe(l);
	if (!sqe)
		return -ENOBUFS;
	wb = &l->write[index];
	l->write_free = wb->next_free;
	wb->failed = failed;
	wb->len = len;
	memcpy(l->write_mem + (size_t)index * WRITE_BUF_SIZE, data, len);
	io_uring_prep_write(sqe, fd, l->write_mem + (size_t)index * WRITE_BUF_SIZE, (unsigned)len, (uint64_t)-1);
	io_uring_sqe_set_data64(sqe, request_data(REQ_WRITE, 0, index));
	return 0;
}

void loop_write_complete(struct loop *l, uint32_t index, int res)
{
	struct write_buf *wb;

	if (index >= WRITE_BUFS)
		return;
	wb = &l->write[index];
	if ((res < 0 || (size_t)res != wb->len) && wb->failed)
		(*wb->failed)++;
	wb->next_free = l->write_free;
	l->write_free = index;
}
