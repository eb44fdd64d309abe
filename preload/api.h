/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to libtapas: the structures its two files share. One thread per context. */
#ifndef PRELOAD_API_H
#define PRELOAD_API_H

#include <stdbool.h>
#include <stdint.h>

#include "preload/stream.h"
#include "preload/tapas.h"

#define API_BUFFER 65536u /* of a connection that is with Linux; a power of two */

enum api_kind { API_LISTENER, API_CONNECTION, API_CONTEXT, API_SERVICE };

/* What an epoll entry points to. */
struct api_object {
	enum api_kind kind;
};

enum api_state { API_CONNECTING, API_LINUX, API_ADOPTING, API_FAST, API_DEAD };

struct tapas_listener {
	struct api_object object;
	struct tapas_context *ctx;
	int fd;
	void *opaque;
};

struct tapas_connection {
	struct api_object object;
	struct tapas_context *ctx;
	struct tapas_connection *prev, *next; /* of the context */
	struct tapas_connection *ready_next;
	bool ready, opened, eof, eof_told, want_space, moved, shut;
	int error;
	enum api_state state;
	int fd;
	void *opaque;
	int slot;             /* -1: none */
	struct stream stream; /* API_FAST */
	uint64_t told;        /* bytes reported by TAPAS_CONN_RECEIVED */
	uint32_t offered;     /* bytes that tapas_tx_alloc() gave */
	/* API_LINUX: circular buffers of our own */
	uint8_t *rx, *tx;
	uint64_t rx_end, rx_read, tx_end, tx_sent;
	uint32_t interest; /* epoll events asked for */
};

struct tapas_context {
	struct api_object object, service; /* the eventfd's and the control socket's epoll entries */
	struct core *core;                 /* NULL: no service */
	int ipc;                           /* its context there */
	int epfd;
	uint32_t cursor;
	struct tapas_connection *conns;
	struct tapas_connection *ready_head, **ready_tail;
};

/* api.c */
void api_ready(struct tapas_connection *c); /* look at it in the next poll */
int api_watch(struct tapas_context *ctx, int fd, uint32_t events, void *object);

/* api_conn.c */
struct tapas_connection *api_conn_new(struct tapas_context *ctx, int fd, void *opaque);
void api_conn_free(struct tapas_connection *c);
void api_conn_established(struct tapas_connection *c);
/* Its descriptor, its slot or its core has news: bring the state up to date. */
void api_conn_epoll(struct tapas_connection *c, uint32_t events);
void api_conn_slot(struct tapas_connection *c);
void api_conn_lost(struct tapas_connection *c);
/* Turn its state into events. Returns how many of @num it used; sets *@more if it has further ones. */
int api_conn_events(struct tapas_connection *c, int num, struct tapas_event *ev, bool *more);

#endif
