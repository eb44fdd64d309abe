/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the cases of the POSIX comparison share. A case is a function that runs in a process of
 * its own, makes TCP connections with a scripted peer on another host, and says what each call
 * did; the same lines must come out on plain Linux and under the library.
 *
 * Nothing that differs from run to run may be said: no ports, descriptors of the library, times.
 */
#ifndef TESTS_POSIX_H
#define TESTS_POSIX_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the peer: commands on a unix socket, one answer each ---- */

enum {
	PEER_LISTEN, /* -> port */
	PEER_ACCEPT,
	PEER_CONNECT,  /* a: port of the case's host */
	PEER_ECHO,     /* units of ECHO_UNIT bytes until one starts with 'E' */
	PEER_SEND,     /* a: bytes of pattern b */
	PEER_TEXT,     /* data, a: send()'s flags */
	PEER_RECV,     /* a: bytes -> how many, their hash and beginning */
	PEER_DRAIN,    /* until the end of the stream or an error -> bytes, hash, errno */
	PEER_PUMP,     /* sends a bytes of pattern 1 and receives b bytes at once -> received, hash */
	PEER_SHUTDOWN, /* a: how */
	PEER_CLOSE,
	PEER_RESET,  /* close with SO_LINGER of 0 */
	PEER_OPTION, /* a: level << 32 | name, b: value */
	PEER_PAUSE,  /* a: ms */
};

#define ECHO_UNIT 16
#define PEER_CONNS 16

struct peer_cmd {
	uint32_t cmd, conn, delay_ms, len;
	int64_t a, b;
	char data[256];
};

struct peer_answer {
	int64_t ret;
	int32_t err;
	uint32_t len; /* of data */
	uint64_t hash;
	char data[64];
};

/* Bytes of the stream @seed, from offset @at; and the hash of bytes that come in pieces (start: HASH_START). */
#define HASH_START 0xcbf29ce484222325ull
void pattern_fill(void *buf, size_t n, uint64_t seed, uint64_t at);
uint64_t pattern_hash(uint64_t hash, const void *buf, size_t n);
uint64_t pattern_stream_hash(uint64_t seed, uint64_t n);

/* ---- cases ---- */

struct test_case {
	const char *name, *text;
	void (*run)(void);
	const char *returns; /* why the connection may be Linux's (again) at the end, or NULL */
	const char *stays;   /* why there is no accelerated connection at all, or NULL */
	long a, b;           /* the case's own */
};

/* returns: why the connection may be Linux's again at the end; stays: why none is accelerated */
#define CASE(n, t, f)                                \
	{                                            \
		.name = (n), .text = (t), .run = (f) \
	}
#define CASE_RETURNS(n, t, f, why)                                     \
	{                                                              \
		.name = (n), .text = (t), .run = (f), .returns = (why) \
	}
/* a function that serves several cases: @arg tells it which; @why as in CASE_RETURNS, or NULL */
#define CASE_WITH(n, t, f, why, arg)                                               \
	{                                                                          \
		.name = (n), .text = (t), .run = (f), .returns = (why), .a = (arg) \
	}
#define CASE_STAYS(n, t, f, why)                                     \
	{                                                            \
		.name = (n), .text = (t), .run = (f), .stays = (why) \
	}

#define PAST_LIBRARY "syscall() goes past the library"

extern const struct test_case *this_case;

/* Each file of cases has one list; the entry without a name ends it. */
extern const struct test_case *const case_lists[];
const struct test_case *matrix_read(void);
const struct test_case *matrix_write(void);
const struct test_case *matrix_option(void);
extern const struct test_case *(*const case_matrices[])(void);

/* ---- the connection ---- */

struct conn {
	int fd, id;
	bool fast;
	uint64_t seen_rx, seen_tx; /* by the kernel's own socket, when the warm-up ended */
};

/* An established connection after its warm-up: accelerated, where a service runs. Ends the process if that fails. */
struct conn *conn_open(void);       /* made by either side, by the case's name */
struct conn *conn_accept(void);     /* made by the peer */
struct conn *conn_accept_by(int l); /* the same by this listener, which is closed */
struct conn *conn_connect(void);
struct conn *conn_nonblock(void); /* conn_open() and O_NONBLOCK */
/* Exchange with the peer's echo until the connection is accelerated (or a fixed number of times). */
void conn_warm(struct conn *c);
/* For a descriptor that the case made itself; @peer_id is the peer's number for it. */
struct conn *conn_adopt(int fd, int peer_id);
struct conn *conn_adopt_shut(int fd, int peer_id); /* one that was shut down for reading */
bool conn_is_fast(const struct conn *c);
/* Told to the runner at the end of the case. */
void conn_report_end(void);

int listener_open(int backlog, int flags); /* on this host's address; ends the process on failure */
int listener_port(int fd);
int peer_listener(void); /* the port of the peer's new listener */
void peer_address(struct sockaddr_storage *to, int port);
int next_id(void);

/* ---- driving the peer ---- */

int64_t peer(int cmd, const struct conn *c, int64_t a, int64_t b); /* and wait for the answer */
int64_t peer_id(int cmd, int id, int64_t a, int64_t b);
void peer_later(int delay_ms, int cmd, const struct conn *c, int64_t a, int64_t b);
struct peer_answer peer_wait(void); /* for the answer to peer_later() */
void peer_text(const struct conn *c, const char *text);
void peer_text_flags(const struct conn *c, const char *text, int flags);
void peer_text_later(int delay_ms, const struct conn *c, const char *text);
/* Say what the peer got: bytes, text or hash, end of stream or error. */
void peer_recv_say(const struct conn *c, size_t n);
void peer_drain_say(const struct conn *c);

/* ---- the transcript ---- */

void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* "call = ret" or "call = -1 ERRNO"; returns @ret, keeps errno. */
long tell(long ret, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same with the @ret bytes that came: text, or a hash if they are many. */
long tell_data(long ret, const void *buf, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* "[IN|HUP]" for poll's and epoll's bits, in a static buffer. */
const char *event_names(uint32_t ev);
const char *err_name(int err);
void fatal(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* ---- waiting until something is so, bounded; say so if it does not come ---- */

void await_in(int fd, int bytes);    /* so many bytes can be read */
void await_poll(int fd, int events); /* poll() says one of these (or ERR or HUP) */
void await_reset(int fd);
void pause_ms(int ms);
bool peer_is_full(int fd); /* its window is closed */
int64_t fill_up(int fd);   /* non-blocking writes until nothing more goes; returns the bytes (of 'f') */
double seconds(void);      /* of a steady clock */

/* ---- signals ---- */

extern _Atomic int signals_seen; /* by the handler of signal_count() */
void signal_count(int sig, int sa_flags);
/* SIGUSR1 is counted, blocked (@block: it alone, @none: nothing) and pending. */
void signal_pending(sigset_t *block, sigset_t *none);
/* SIGALRM every 25 ms, until alarm_stop(); the handler counts. */
void alarm_start(int sa_flags);
void alarm_stop(void);

#endif
