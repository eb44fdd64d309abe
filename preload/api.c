/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libtapas: contexts, listeners and the poll. A context is one kernel epoll instance that
 * holds the eventfd of a context of the service, the listeners, and the connections that are
 * with Linux. Connections that may have something to report stand in its ready list.
 */
#define _GNU_SOURCE 1
#include "preload/api.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "service/base/clock.h"

#define POLL_BATCH 64

static struct core *_Atomic api_core;

/* The process's connection to the service; one try per context while there is none. */
static struct core *api_core_get(void)
{
	/* pairs with the release below */
	struct core *c = atomic_load_explicit(&api_core, memory_order_acquire), *fresh = NULL;
	struct ipc_places places;

	if (c && !core_check(c))
		return c;
	ipc_places_find(&places, getauxval(AT_SECURE) != 0);
	if (core_open(&places, &fresh))
		return NULL;
	if (!atomic_compare_exchange_strong_explicit(&api_core, &c, fresh, memory_order_acq_rel,
						     memory_order_acquire)) {
		core_kill(fresh);
		return c;
	}
	return fresh;
}

int api_watch(struct tapas_context *ctx, int fd, uint32_t events, void *object)
{
	struct epoll_event e = {.events = events, .data.ptr = object};

	return epoll_ctl(ctx->epfd, EPOLL_CTL_ADD, fd, &e) ? -errno : 0;
}

static void api_context_attach(struct tapas_context *ctx)
{
	struct core *core = api_core_get();
	int ipc = core ? core_context_get(core) : -1;

	if (ipc < 0)
		return;
	if (api_watch(ctx, core_context_fd(core, (uint32_t)ipc), EPOLLIN | EPOLLET, &ctx->object) ||
	    api_watch(ctx, core->sock, EPOLLRDHUP | EPOLLET, &ctx->service)) {
		core_context_put(core, (uint32_t)ipc);
		return;
	}
	ctx->core = core;
	ctx->ipc = ipc;
}

int tapas_context_create(struct tapas_context **out)
{
	struct tapas_context *ctx = calloc(1, sizeof *ctx);

	if (!ctx)
		return -ENOMEM;
	ctx->object.kind = API_CONTEXT;
	ctx->service.kind = API_SERVICE;
	ctx->ready_tail = &ctx->ready_head;
	ctx->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (ctx->epfd < 0) {
		int err = errno;

		free(ctx);
		return -err;
	}
	api_context_attach(ctx);
	*out = ctx;
	return 0;
}

void tapas_context_destroy(struct tapas_context *ctx)
{
	while (ctx->conns)
		tapas_close(ctx->conns);
	if (ctx->core)
		core_context_put(ctx->core, (uint32_t)ctx->ipc);
	close(ctx->epfd);
	free(ctx);
}

int tapas_context_fd(const struct tapas_context *ctx)
{
	if (ctx->core)
		core_context_arm(ctx->core, (uint32_t)ctx->ipc);
	return ctx->epfd;
}

void api_ready(struct tapas_connection *c)
{
	struct tapas_context *ctx = c->ctx;

	if (c->ready)
		return;
	c->ready = true;
	c->ready_next = NULL;
	*ctx->ready_tail = c;
	ctx->ready_tail = &c->ready_next;
}

/* Slots with news, from the bell. */
static bool api_take_bell(struct tapas_context *ctx)
{
	uint32_t slots[POLL_BATCH], n;

	if (!ctx->core)
		return false;
	n = bell_take(&ctx->core->shm->context[ctx->ipc].bell, slots, POLL_BATCH, &ctx->cursor);
	for (uint32_t i = 0; i < n; i++) {
		struct tapas_connection *c =
			atomic_load_explicit(&ctx->core->owner[slots[i] % IPC_SLOTS], memory_order_acquire);

		if (c && c->ctx == ctx)
			api_conn_slot(c);
	}
	return n > 0;
}

static void api_service_lost(struct tapas_context *ctx)
{
	if (!core_check(ctx->core))
		return;
	for (struct tapas_connection *c = ctx->conns; c; c = c->next)
		api_conn_lost(c);
	ctx->core = NULL;
}

/* Kernel events; listeners report at once, the others through the ready list. */
static int api_take_epoll(struct tapas_context *ctx, int num, struct tapas_event *ev, int timeout_ms)
{
	struct epoll_event k[POLL_BATCH];
	int n = epoll_wait(ctx->epfd, k, num < POLL_BATCH ? num : POLL_BATCH, timeout_ms), used = 0;

	if (n < 0)
		return -errno;
	for (int i = 0; i < n; i++) {
		struct api_object *o = k[i].data.ptr;
		struct tapas_listener *l = (struct tapas_listener *)o;

		switch (o->kind) {
		case API_LISTENER:
			ev[used++] = (struct tapas_event){.type = TAPAS_LISTEN_NEW, .opaque = l->opaque, .listener = l};
			break;
		case API_CONNECTION:
			api_conn_epoll((struct tapas_connection *)o, k[i].events);
			break;
		case API_SERVICE:
			if (ctx->core)
				api_service_lost(ctx);
			break;
		case API_CONTEXT:
			break;
		}
	}
	return used;
}

static int api_take_ready(struct tapas_context *ctx, int num, struct tapas_event *ev)
{
	struct tapas_connection *last = NULL;
	int used = 0;

	while (ctx->ready_head && used < num && ctx->ready_head != last) {
		struct tapas_connection *c = ctx->ready_head;
		bool more = false;

		ctx->ready_head = c->ready_next;
		if (!ctx->ready_head)
			ctx->ready_tail = &ctx->ready_head;
		c->ready = false;
		used += api_conn_events(c, num - used, ev + used, &more);
		if (more) {
			api_ready(c);
			if (!last)
				last = c; /* once around */
		}
	}
	return used;
}

int tapas_context_poll(struct tapas_context *ctx, int num, struct tapas_event *ev, int timeout_ms)
{
	uint64_t until = clock_now_ns() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * NS_PER_MS;

	if (num <= 0)
		return -EINVAL;
	for (;;) {
		int used, wait = 0;

		api_take_bell(ctx);
		used = api_take_ready(ctx, num, ev);
		if (used < num) {
			bool quiet = !used && timeout_ms;

			if (quiet && ctx->core) {
				core_context_arm(ctx->core, (uint32_t)ctx->ipc);
				quiet = !bell_any(&ctx->core->shm->context[ctx->ipc].bell);
			}
			if (quiet) {
				uint64_t now = clock_now_ns();

				wait = timeout_ms < 0 ? -1
				       : now < until  ? (int)((until - now + NS_PER_MS - 1) / NS_PER_MS)
						      : 0;
			}
			int n = api_take_epoll(ctx, num - used, ev + used, wait);

			if (n < 0)
				return used ? used : n;
			used += n;
		}
		if (!used) {
			api_take_bell(ctx);
			used = api_take_ready(ctx, num, ev);
		}
		if (used || !timeout_ms || (timeout_ms > 0 && clock_now_ns() >= until))
			return used;
	}
}

int tapas_listen(struct tapas_context *ctx, const struct sockaddr *addr, socklen_t len, int backlog, void *opaque,
		 struct tapas_listener **out)
{
	struct tapas_listener *l = calloc(1, sizeof *l);
	struct core_policy policy;
	int one = 1, rc = 0;

	if (!l)
		return -ENOMEM;
	*l = (struct tapas_listener){.object = {API_LISTENER}, .ctx = ctx, .opaque = opaque};
	l->fd = socket(addr->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (l->fd < 0 || setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) || bind(l->fd, addr, len) ||
	    listen(l->fd, backlog))
		rc = -errno;
	if (!rc)
		rc = api_watch(ctx, l->fd, EPOLLIN, l);
	if (rc) {
		if (l->fd >= 0)
			close(l->fd);
		free(l);
		return rc;
	}
	if (ctx->core)
		core_listen(ctx->core, l->fd, &policy);
	*out = l;
	return 0;
}

void tapas_listener_close(struct tapas_listener *l)
{
	if (l->ctx->core)
		core_unlisten(l->ctx->core, l->fd);
	close(l->fd);
	free(l);
}

int tapas_accept(struct tapas_context *ctx, struct tapas_listener *l, void *opaque, struct tapas_connection **out)
{
	int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return -errno;
	*out = api_conn_new(ctx, fd, opaque);
	if (!*out) {
		close(fd);
		return -ENOMEM;
	}
	(*out)->opened = true; /* its event is the accept itself */
	api_conn_established(*out);
	return 0;
}

int tapas_connect(struct tapas_context *ctx, const struct sockaddr *addr, socklen_t len, void *opaque,
		  struct tapas_connection **out)
{
	int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct tapas_connection *c;

	if (fd < 0)
		return -errno;
	if (connect(fd, addr, len) && errno != EINPROGRESS) {
		int err = errno;

		close(fd);
		return -err;
	}
	c = api_conn_new(ctx, fd, opaque);
	if (!c) {
		close(fd);
		return -ENOMEM;
	}
	c->interest = EPOLLOUT;
	if (api_watch(ctx, fd, EPOLLOUT, c)) {
		api_conn_free(c);
		return -ENOMEM;
	}
	*out = c;
	return 0;
}
