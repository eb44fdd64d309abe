// SPDX-License-Identifier: GPL-2.0-or-later
/* What the files of talk share: a connection's two streams, and what is counted of all of them. */
#ifndef TESTS_NET_TALK_TALK_H
#define TESTS_NET_TALK_TALK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PERIOD 16381 /* prime: a ring of a power of two that wraps wrongly shows */
#define MAXFD 65536
#define HEADER_TURNS (1ull << 63) /* in the seed */

enum wait { WAIT_LT, WAIT_ET, WAIT_ONESHOT, WAIT_RECV };

struct header {
	uint64_t seed, to_server, to_client;
};

/* One direction. With threads that block, each direction has its own. */
struct way {
	uint64_t rnd, resume_ns; /* end of a pause; 0: none */
	uint64_t n, len;
	bool ready;                /* the last event or call said so */
	_Atomic uint64_t since_ns; /* waits since then; 0: does not. Read by stall_look() */
};

struct conn {
	_Atomic int fd; /* 0: unused entry. Read by stall_look() */
	bool client, shut, eof, got_header, connecting, turns, hangup;
	struct header h;
	uint32_t header_bytes; /* sent or received so far */
	struct way tx, rx;
	uint64_t tx_limit, rx_mark, turn; /* in turns: may send so much; more when so much has come */
	uint32_t events;
	_Atomic bool armed; /* EPOLLONESHOT: between the owner's epoll_ctl() and the next owner's event */
	_Atomic bool told;
};

extern struct conn *conns;    /* by descriptor, MAXFD of them */
extern _Atomic int live, top; /* connections; the highest descriptor */
extern int paused;            /* directions that pause, unless threads sleep for them */
extern enum wait how;
extern bool turns;        /* this end asks for conversations in turns */
extern uint64_t stall_ns; /* 0: nobody looks */

uint64_t now_ns(void);
uint64_t next_random(uint64_t *s);
uint64_t least(uint64_t a, uint64_t b);
void die(const char *what);

/* Memory for the connections, and the bytes that all streams are made of. */
void streams_open(void);
void lengths_known(struct conn *c);
/* May it send or receive now? */
bool tx_due(const struct conn *c);
/* One call. 0 or an error's text */
const char *take(struct conn *c);
const char *give_header(struct conn *c);
const char *give(struct conn *c);
/* After a call, or a pause: has the direction moved, and does it wait from now on? */
void clock_set(struct way *w, bool moved, bool due);
void clocks_set(struct conn *c, bool moved_tx, bool moved_rx);
/* Say which connections have stood still for stall_ns. */
void stall_look(void);
/* Something that Linux does not say. */
void is_odd(const struct conn *c, const char *what, uint32_t events);
/* It is over; @error or NULL. */
void finish(struct conn *c, const char *error);
/*
 * Print the result. Connections that are left have failed, if @complete. Returns whether no
 * connection was wrong, and how many were right in *@done.
 */
bool report(bool complete, uint64_t *done);

#endif
