/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libtapas: connections. Each is a kernel socket that the library asks the service to adopt as
 * soon as it is established. API_FAST ones use the shared buffers in place; the others use two
 * circular buffers here, filled and emptied by the context's poll.
 */
#define _GNU_SOURCE 1
#include "preload/api.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "service/base/compiler.h"

struct tapas_connection *api_conn_new(struct tapas_context *ctx, int fd, void *opaque)
{
	struct tapas_connection *c = calloc(1, sizeof *c);

	if (!c)
		return NULL;
	c->object.kind = API_CONNECTION;
	c->ctx = ctx;
	c->fd = fd;
	c->opaque = opaque;
	c->slot = -1;
	c->next = ctx->conns;
	if (c->next)
		c->next->prev = c;
	ctx->conns = c;
	return c;
}

static void api_conn_unlink(struct tapas_connection *c)
{
	struct tapas_context *ctx = c->ctx;

	if (c->prev)
		c->prev->next = c->next;
	else
		ctx->conns = c->next;
	if (c->next)
		c->next->prev = c->prev;
	c->prev = c->next = NULL;
	for (struct tapas_connection **p = &ctx->ready_head; c->ready && *p; p = &(*p)->ready_next) {
		if (*p != c)
			continue;
		*p = c->ready_next;
		if (!*p)
			ctx->ready_tail = p;
		break;
	}
	c->ready = false;
}

void api_conn_free(struct tapas_connection *c)
{
	api_conn_unlink(c);
	if (c->slot >= 0 && c->ctx->core) {
		stream_close(&c->stream);
		core_slot_put(c->ctx->core, (uint32_t)c->slot);
	}
	close(c->fd);
	free(c->rx);
	free(c->tx);
	free(c);
}

/* Ask epoll for what the buffers can take: input while there is room, output while something waits. */
static void api_conn_interest(struct tapas_connection *c)
{
	uint32_t want = 0;
	struct epoll_event e = {.data.ptr = c};

	if (c->state == API_LINUX) {
		if (!c->eof && c->rx_end - c->rx_read < API_BUFFER)
			want |= EPOLLIN;
		if (c->tx_end != c->tx_sent)
			want |= EPOLLOUT;
	}
	if (want == c->interest)
		return;
	e.events = want;
	if (want && !c->interest)
		epoll_ctl(c->ctx->epfd, EPOLL_CTL_ADD, c->fd, &e);
	else
		epoll_ctl(c->ctx->epfd, want ? EPOLL_CTL_MOD : EPOLL_CTL_DEL, c->fd, &e);
	c->interest = want;
}

static void api_conn_fail(struct tapas_connection *c, int error)
{
	if (c->state == API_DEAD)
		return;
	c->state = API_DEAD;
	c->error = error;
	api_conn_interest(c);
	api_ready(c);
}

static void api_conn_to_linux(struct tapas_connection *c)
{
	c->rx = malloc(API_BUFFER);
	c->tx = malloc(API_BUFFER);
	if (!c->rx || !c->tx) {
		api_conn_fail(c, ENOMEM);
		return;
	}
	c->state = API_LINUX;
	api_conn_interest(c);
	api_ready(c);
}

void api_conn_established(struct tapas_connection *c)
{
	struct tapas_context *ctx = c->ctx;

	c->state = API_ADOPTING;
	api_conn_interest(c);
	c->slot = ctx->core ? core_slot_take(ctx->core, c) : -1;
	if (c->slot >= 0 &&
	    core_adopt(ctx->core, (uint32_t)c->slot, c->fd, 0, IPC_OPT_NODELAY, (uint32_t)ctx->ipc, 0) == 0)
		return;
	if (c->slot >= 0)
		core_slot_put(ctx->core, (uint32_t)c->slot);
	c->slot = -1;
	api_conn_to_linux(c);
}

void api_conn_slot(struct tapas_connection *c)
{
	uint32_t status = atomic_load_explicit(&core_slot(c->ctx->core, (uint32_t)c->slot)->status,
					       memory_order_acquire); /* pairs with the service's release */

	if (c->state == API_ADOPTING && IPC_STATE(status) == IPC_FAST) {
		if (stream_open(&c->stream, c->ctx->core, (uint32_t)c->slot))
			api_conn_fail(c, EPROTO);
		else
			c->state = API_FAST;
	} else if (c->state == API_ADOPTING && IPC_STATE(status) != IPC_ADOPTING) {
		api_conn_to_linux(c);
	}
	api_ready(c);
}

void api_conn_lost(struct tapas_connection *c)
{
	if (c->state == API_ADOPTING || c->state == API_FAST)
		api_conn_fail(c, ECONNRESET);
	c->slot = -1;
}

/* ---- the kernel socket's side ---- */

static void api_conn_fill(struct tapas_connection *c)
{
	uint32_t room = API_BUFFER - (uint32_t)(c->rx_end - c->rx_read), at = (uint32_t)c->rx_end & (API_BUFFER - 1);
	uint32_t first = MIN(room, API_BUFFER - at);
	struct iovec v[2] = {{c->rx + at, first}, {c->rx, room - first}};
	ssize_t n = room ? readv(c->fd, v, 2) : -1;

	if (n > 0)
		c->rx_end += (uint64_t)n;
	else if (n == 0)
		c->eof = true;
	else if (room && errno != EAGAIN && errno != EINTR)
		api_conn_fail(c, errno);
	api_ready(c);
}

static void api_conn_drain(struct tapas_connection *c)
{
	uint32_t left = (uint32_t)(c->tx_end - c->tx_sent), at = (uint32_t)c->tx_sent & (API_BUFFER - 1);
	uint32_t first = MIN(left, API_BUFFER - at);
	struct iovec v[2] = {{c->tx + at, first}, {c->tx, left - first}};
	struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
	ssize_t n = left ? sendmsg(c->fd, &m, MSG_NOSIGNAL) : 0;

	if (n > 0)
		c->tx_sent += (uint64_t)n;
	else if (n < 0 && errno != EAGAIN && errno != EINTR)
		api_conn_fail(c, errno);
	if (c->shut && c->tx_sent == c->tx_end)
		shutdown(c->fd, SHUT_WR);
	if (c->want_space)
		api_ready(c);
}

void api_conn_epoll(struct tapas_connection *c, uint32_t events)
{
	int err = 0;
	socklen_t len = sizeof err;

	if (c->state == API_CONNECTING) {
		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len);
		if (err)
			api_conn_fail(c, err);
		else
			api_conn_established(c);
		return;
	}
	if (c->state != API_LINUX)
		return;
	if (events & EPOLLOUT)
		api_conn_drain(c);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		api_conn_fill(c);
	api_conn_interest(c);
}

/* ---- events ---- */

/* Bytes not reported yet, in at most two pieces. */
static int api_conn_received(struct tapas_connection *c, int num, struct tapas_event *ev, bool *more)
{
	bool fast = c->state == API_FAST;
	uint8_t *buf = fast ? c->stream.rx : c->rx;
	uint32_t size = fast ? c->stream.rx_size : API_BUFFER;
	/* pairs with the service's release store after it has copied the payload */
	uint64_t end = fast ? atomic_load_explicit(&c->stream.slot->rcv_end, memory_order_acquire) : c->rx_end;
	int n = 0;

	while (c->told < end && n < num) {
		uint32_t at = (uint32_t)c->told & (size - 1);
		size_t len = MIN(end - c->told, (uint64_t)(size - at));

		ev[n++] = (struct tapas_event){
			.type = TAPAS_CONN_RECEIVED, .opaque = c->opaque, .conn = c, .buf = buf + at, .len = len};
		c->told += len;
	}
	*more |= c->told < end;
	return n;
}

static uint32_t api_conn_room(struct tapas_connection *c)
{
	if (c->state == API_FAST)
		return stream_room(&c->stream);
	return c->state == API_LINUX ? API_BUFFER - (uint32_t)(c->tx_end - c->tx_sent) : 0;
}

int api_conn_events(struct tapas_connection *c, int num, struct tapas_event *ev, bool *more)
{
	struct tapas_event e = {.opaque = c->opaque, .conn = c};
	int n = 0;

#define EMIT(kind, st) (e.type = (kind), e.status = (st), ev[n++] = e)
	if (!c->opened && c->state != API_CONNECTING && c->state != API_ADOPTING) {
		c->opened = true;
		EMIT(TAPAS_CONN_OPEN, c->state == API_DEAD ? -c->error : 0);
	}
	if (c->moved && n < num) {
		c->moved = false;
		EMIT(TAPAS_CONN_MOVED, 0);
	}
	if (c->state == API_FAST || c->state == API_LINUX)
		n += api_conn_received(c, num - n, ev + n, more);
	if (c->state == API_FAST) {
		uint32_t status = stream_status(&c->stream);

		if (status & IPC_ST_ERROR)
			api_conn_fail(c, (int)atomic_load_explicit(&c->stream.slot->error, memory_order_relaxed));
		else if (status & IPC_ST_FIN)
			c->eof = true;
	}
	if (c->want_space && n < num && (c->state == API_FAST ? stream_want_space(&c->stream) : api_conn_room(c) > 0)) {
		c->want_space = false;
		EMIT(TAPAS_CONN_SENDBUF, 0);
	}
	if ((c->eof || c->state == API_DEAD) && !c->eof_told && !*more) {
		if (n < num) {
			c->eof_told = true;
			EMIT(TAPAS_CONN_CLOSED, c->state == API_DEAD ? -c->error : 0);
		} else {
			*more = true;
		}
	}
#undef EMIT
	return n;
}

/* ---- the calls ---- */

int tapas_rx_free(struct tapas_connection *c, size_t bytes)
{
	struct stream *st = &c->stream;
	uint64_t read;

	if (c->state == API_LINUX) {
		if (bytes > c->told - c->rx_read)
			return -EINVAL;
		c->rx_read += bytes;
		api_conn_interest(c);
		return 0;
	}
	if (c->state != API_FAST)
		return 0;
	read = atomic_load_explicit(&st->slot->rcv_read, memory_order_relaxed);
	if (bytes > c->told - read)
		return -EINVAL;
	/* pairs with the service's acquire: what was read may be written over */
	atomic_store_explicit(&st->slot->rcv_read, read + bytes, memory_order_release);
	if (read + bytes - atomic_load_explicit(&st->rung_read, memory_order_relaxed) >= st->rx_size / 4) {
		atomic_store_explicit(&st->rung_read, read + bytes, memory_order_relaxed);
		stream_ring(st);
	}
	return 0;
}

long tapas_tx_alloc(struct tapas_connection *c, size_t bytes, void **buf1, size_t *len1, void **buf2)
{
	bool fast = c->state == API_FAST;
	uint8_t *buf = fast ? c->stream.tx : c->tx;
	uint32_t size = fast ? c->stream.tx_size : API_BUFFER, room, at, n;
	uint64_t end;

	if (c->shut || c->state == API_DEAD)
		return -EPIPE;
	room = api_conn_room(c);
	n = (uint32_t)MIN((size_t)room, bytes);
	c->want_space = n < bytes;
	c->offered = n;
	*buf1 = *buf2 = NULL;
	*len1 = 0;
	if (fast && c->want_space && stream_want_space(&c->stream))
		api_ready(c); /* room came meanwhile */
	if (!n)
		return 0;
	end = fast ? atomic_load_explicit(&c->stream.slot->snd_end, memory_order_relaxed) : c->tx_end;
	at = (uint32_t)end & (size - 1);
	*buf1 = buf + at;
	*len1 = MIN(n, size - at);
	*buf2 = buf;
	return n;
}

int tapas_tx_send(struct tapas_connection *c, size_t bytes)
{
	if (bytes > c->offered)
		return -EINVAL;
	c->offered -= (uint32_t)bytes;
	if (c->state == API_FAST) {
		struct ipc_slot *slot = c->stream.slot;

		/* pairs with the service's acquire: the bytes are in the buffer */
		atomic_store_explicit(&slot->snd_end,
				      atomic_load_explicit(&slot->snd_end, memory_order_relaxed) + bytes,
				      memory_order_release);
		stream_ring(&c->stream);
	} else if (c->state == API_LINUX) {
		c->tx_end += bytes;
		api_conn_drain(c);
		api_conn_interest(c);
	} else {
		return -EPIPE;
	}
	return 0;
}

int tapas_shutdown(struct tapas_connection *c)
{
	if (c->shut)
		return 0;
	c->shut = true;
	if (c->state == API_LINUX && c->tx_sent != c->tx_end)
		return 0; /* follows what waits */
	return shutdown(c->fd, SHUT_WR) ? -errno : 0;
}

int tapas_move(struct tapas_connection *c, struct tapas_context *to)
{
	uint32_t interest = c->interest;

	if ((c->state == API_FAST || c->state == API_ADOPTING) && c->ctx->core != to->core)
		return -EINVAL;
	if (interest) {
		epoll_ctl(c->ctx->epfd, EPOLL_CTL_DEL, c->fd, NULL);
		if (api_watch(to, c->fd, interest, c))
			return -ENOMEM;
	}
	api_conn_unlink(c);
	c->ctx = to;
	c->next = to->conns;
	if (c->next)
		c->next->prev = c;
	to->conns = c;
	if (c->slot >= 0) /* the next news rings there; what came before is looked at once, below */
		atomic_store_explicit(&core_slot(to->core, (uint32_t)c->slot)->context, (uint32_t)to->ipc,
				      memory_order_seq_cst);
	c->moved = true;
	api_ready(c);
	return 0;
}

void tapas_close(struct tapas_connection *c)
{
	if (c->state == API_LINUX && c->tx_sent != c->tx_end)
		api_conn_drain(c);
	api_conn_free(c);
}

int tapas_connection_fd(const struct tapas_connection *c)
{
	return c->fd;
}

int tapas_is_fast(const struct tapas_connection *c)
{
	return c->state == API_FAST;
}
