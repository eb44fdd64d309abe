/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libtapas: the low-level interface to accelerated TCP. A program that uses it directly reads
 * and writes its connections' buffers in place, without system calls or copies, and learns of
 * everything by polling a context. See libtapas(3).
 *
 * Connections are made by Linux and are ordinary sockets until the service adopts them, which
 * the library asks for at once. Where the service is not running, or leaves a connection with
 * Linux, the same calls work on the kernel socket through buffers of the library's own.
 *
 * A context, and everything that belongs to it, is used by one thread at a time.
 * Functions return 0 or a count, or -errno.
 */
#ifndef TAPAS_H
#define TAPAS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct tapas_context;
struct tapas_listener;
struct tapas_connection;

enum tapas_event_type {
	TAPAS_LISTEN_NEW,    /* listener: a connection waits; tapas_accept() takes it. data */
	TAPAS_CONN_OPEN,     /* connection: established (status 0) or failed (status -errno) */
	TAPAS_CONN_RECEIVED, /* connection: `len` bytes at `buf`, valid until tapas_rx_free() */
	TAPAS_CONN_SENDBUF,  /* connection: room again in a transmit buffer that was full */
	TAPAS_CONN_MOVED,    /* connection: now belongs to the context that reports this */
	TAPAS_CONN_CLOSED,   /* connection: the peer sent FIN (status 0) or it failed (status -errno) */
};

struct tapas_event {
	enum tapas_event_type type;
	int status;
	void *opaque; /* of the listener or connection */
	struct tapas_listener *listener;
	struct tapas_connection *conn;
	void *buf;
	size_t len;
};

/* A place to poll. *@out is freed by tapas_context_destroy(), with all that is left in it. */
int tapas_context_create(struct tapas_context **out);
void tapas_context_destroy(struct tapas_context *ctx);
/*
 * Up to @num events; waits up to @timeout_ms (0: not at all, -1: without limit). Returns their
 * number, 0 on time-out, -EINTR.
 */
int tapas_context_poll(struct tapas_context *ctx, int num, struct tapas_event *events, int timeout_ms);
/* A descriptor that is readable when tapas_context_poll() has something; owned by @ctx. */
int tapas_context_fd(const struct tapas_context *ctx);

/* Listen on @addr. */
int tapas_listen(struct tapas_context *ctx, const struct sockaddr *addr, socklen_t len, int backlog, void *opaque,
		 struct tapas_listener **out);
/* Take a waiting connection into @ctx. -EAGAIN: none. */
int tapas_accept(struct tapas_context *ctx, struct tapas_listener *l, void *opaque, struct tapas_connection **out);
void tapas_listener_close(struct tapas_listener *l);

/* Connect; TAPAS_CONN_OPEN tells the outcome. */
int tapas_connect(struct tapas_context *ctx, const struct sockaddr *addr, socklen_t len, void *opaque,
		  struct tapas_connection **out);
/* The oldest @bytes of what was received are processed: their room is the peer's again. -EINVAL: more than was received. */
int tapas_rx_free(struct tapas_connection *c, size_t bytes);
/*
 * Room for up to @bytes in the transmit buffer: *@buf1 with *@len1 bytes and, because the
 * buffer is circular, the rest at *@buf2. Returns how many bytes there are in all, which
 * may be fewer (0: full; TAPAS_CONN_SENDBUF will tell), or -EPIPE.
 */
long tapas_tx_alloc(struct tapas_connection *c, size_t bytes, void **buf1, size_t *len1, void **buf2);
/* Send the first @bytes of what was allocated. -EINVAL: more than that. */
int tapas_tx_send(struct tapas_connection *c, size_t bytes);
/* No more will be sent: FIN after everything that was. */
int tapas_shutdown(struct tapas_connection *c);
/* Give the connection to another context; TAPAS_CONN_MOVED appears there. Both contexts must be quiet meanwhile. */
int tapas_move(struct tapas_connection *c, struct tapas_context *to);
/* Close; what was sent still goes out. */
void tapas_close(struct tapas_connection *c);
/* The socket, for getsockopt() and getpeername(). Owned by @c. */
int tapas_connection_fd(const struct tapas_connection *c);
/* 1 if the service carries it, 0 if Linux does. */
int tapas_is_fast(const struct tapas_connection *c);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
