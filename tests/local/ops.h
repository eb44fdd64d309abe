/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random socket operations, see ops.c. This is what the parts share: the processes, the orders
 * that the director gives them, and the bytes of the streams.
 *
 * An order is one datagram on a unix socket of the process, the answer another one. The process
 * knows nothing of the script: an order says all, and the answer's text is what the transcript
 * shows of it, so that what is compared is what the process has seen.
 */
#ifndef TESTS_LOCAL_OPS_H
#define TESTS_LOCAL_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#define CONNS 8
#define ENDS (2 * CONNS) /* end 2c is the client's of connection c, 2c + 1 the server's */
#define COPIES 3         /* descriptors that one process may have of one end */
#define LONGEST 300000
#define ANSWER_MS 6000

enum who { WHO_A, WHO_B, WHO_CHILD_A, WHO_CHILD_B, WHO_HELPER, WHO_OUTSIDER, WHO_MAX };

enum order_op {
	DO_LISTEN,     /* answers with the port */
	DO_CONNECT,    /* arg: port; how: CONNECT_*; answers with the own port */
	DO_ACCEPT,     /* how: 1 accept4 */
	DO_SEND,       /* how: SEND_*; one call */
	DO_PUSH,       /* all of n, in pieces of arg */
	DO_FILL,       /* in pieces of arg, until nothing more is taken */
	DO_RECV,       /* how: RECV_*; one call */
	DO_TAKE,       /* all of n, in pieces of arg */
	DO_PUMP,       /* n bytes from one end to the other one, both are here; pos2: the reader's */
	DO_SETTLE,     /* waits for what must come: wants */
	DO_POLL,       /* how: 1 poll, 2 select; events of the ends in mask, writability of those in mask2 */
	DO_WAIT,       /* how: WAIT_*; one end, arg: events, n: time-out in ms */
	DO_EPOLL_CTL,  /* arg: EPOLL_CTL_*, flags: events */
	DO_EPOLL_WAIT, /* mask: ends whose edges may be late; mask2: those of one shot */
	DO_OPTION,     /* arg: index in the table of options; how: 1 set to n */
	DO_NAMES,      /* arg: the client's port; n: the server's */
	DO_INQ,
	DO_OUTQ,
	DO_NONBLOCK, /* how: 1 by ioctl; arg: on or off */
	DO_TIMEOUT,  /* SO_RCVTIMEO, and a call that meets it */
	DO_SHUTDOWN, /* arg: SHUT_* */
	DO_CLOSE,    /* how: CLOSE_* */
	DO_DUP,      /* how: DUP_*; arg: the new copy */
	DO_FORK,     /* how: FORK_*; brings the child's socket */
	DO_EXEC,     /* this process, in its place */
	DO_PASS,     /* brings the socket on which the descriptor goes */
	DO_GET,      /* brings the socket on which the descriptor comes */
	DO_JOIN,     /* the answer of the order that a thread got */
	DO_SIGNAL,   /* how: 1 a handler with SA_RESTART; to the thread */
	DO_EXIT,
	DO_MAX
};

enum {
	SEND_SEND,
	SEND_WRITE,
	SEND_WRITEV,
	SEND_SENDMSG,
	SEND_SENDTO,
	SEND_SENDMMSG,
	SEND_SENDFILE,
	SEND_MORE,
	SEND_CORK,
	SEND_HOWS
};
enum { RECV_RECV, RECV_READ, RECV_READV, RECV_RECVMSG, RECV_RECVFROM, RECV_RECVMMSG, RECV_HOWS };
enum { WAIT_POLL, WAIT_PPOLL, WAIT_SELECT, WAIT_EPOLL, WAIT_EPOLL_ET, WAIT_EPOLL_ONESHOT, WAIT_HOWS };
enum { CLOSE_CLOSE, CLOSE_DUP2, CLOSE_LINGER, CLOSE_HOWS };
enum { DUP_DUP, DUP_DUP2, DUP_FCNTL, DUP_DUP3, DUP_HOWS };
enum { FORK_FORK, FORK_EXEC, FORK_OUTSIDE, FORK_HOWS };
enum { CONNECT_BLOCKING, CONNECT_NONBLOCK, CONNECT_HOWS };

/* What an end must come to see. */
struct want {
	uint8_t end, copy;
	uint8_t closed;  /* Linux's socket is in state CLOSE */
	uint32_t events; /* at least these */
	uint64_t unread; /* at least so much */
};

struct order {
	uint8_t op, how, end, copy;
	uint8_t thread; /* let a thread do it, and answer once that sleeps */
	uint8_t some;   /* the length differs from run to run: do not show it; a look: until it is the same twice */
	uint8_t wants;
	int32_t arg, flags;
	uint32_t mask, mask2;
	uint64_t n, key, pos, pos2;
	struct want want[ENDS];
};

struct answer {
	int64_t r;
	int32_t error;
	char text[1000];
};

/* ops_pattern.c: each byte of a stream is known by the stream's key and its place */
void pattern_make(void *buf, size_t n, uint64_t key, uint64_t pos);
size_t pattern_check(const void *buf, size_t n, uint64_t key, uint64_t pos); /* bytes that are right */
uint32_t pattern_hash(uint32_t hash, const void *buf, size_t n);
uint64_t mix64(uint64_t x);

/* ops_actor.c, the process that is played with */
extern int actor_fds[ENDS][COPIES]; /* -1: none */
extern const char *net_to, *net_from;
int actor_main(int ctl, const char *table);
int channel_send(int s, const void *msg, size_t n, int fd); /* fd: goes along unless negative */
ssize_t channel_recv(int s, void *msg, size_t n, int *fd);
void say(struct answer *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
void say_result(struct answer *a, int64_t r); /* and errno, if it failed */
void *actor_room(void);                       /* LONGEST bytes of this thread */
struct timespec timespec_ms(int ms);
int64_t clock_us(void);

/* what carries out the orders, by subject */
bool io_order(const struct order *o, struct answer *a);     /* ops_io.c */
bool events_order(const struct order *o, struct answer *a); /* ops_events.c */
bool state_order(const struct order *o, struct answer *a);  /* ops_state.c */
void events_forget(void);                                   /* in a child: the parent's epoll instance is not used */
extern const struct option_row {
	const char *name;
	int level, option, value[2]; /* values that may be set; both -1: it is only read */
	bool once_set;               /* read only after it was set: until then Linux tunes it */
} option_rows[];
extern const int option_count;

#endif
