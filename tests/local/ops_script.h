/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The director's side: the processes, what is known of the connections, and the operations that
 * are drawn. Everything here happens in one thread, one order after another.
 */
#ifndef TESTS_LOCAL_OPS_SCRIPT_H
#define TESTS_LOCAL_OPS_SCRIPT_H

#include "tests/local/ops.h"

#define UNREAD_MOST 40000 /* Linux takes so much on behalf of a reader that does not read */

enum flow_state {
	FLOWS,
	FULL,  /* the writer has filled it: nothing more is taken */
	MURKY, /* then some was read: nobody knows whether something would be taken */
};

/* One direction, named by the end that writes. */
struct stream {
	uint64_t key, sent, read;
	enum flow_state state;
	bool fin;
};

struct end {
	uint8_t copies[WHO_MAX]; /* bits: the descriptors that a process has */
	uint8_t user;            /* who used it last */
	bool shut_rd, nonblock;
	bool news;               /* something is on its way to it */
	bool moved;              /* more than one process, or image, has had it */
	uint32_t watch[WHO_MAX]; /* events it has in a process's epoll instance, 0: it is not there */
	uint8_t watch_copy[WHO_MAX];
	uint32_t options; /* bits: those that were set */
};

struct conn {
	bool used, reset;
	int port, server_port;
	struct end end[2];
	struct stream stream[2];
};

struct proc {
	pid_t pid;
	int pidfd, channel;
};

extern struct script {
	uint64_t rnd, keys;
	struct proc procs[WHO_MAX];
	struct conn conns[CONNS];
	int port;
	bool single;            /* one process has both ends */
	int stopped, resume_in; /* who, and for how many operations; -1: nobody */
	bool failed;            /* a process does not answer: the script ends */
	unsigned int lines;
} script;
extern const char *service_command;
extern int taken_pause_ms; /* after a connection's first exchanges, so that the service may take it */

uint32_t rnd(uint32_t n); /* below n */
bool one_in(uint32_t n);
uint64_t rnd_length(uint64_t most); /* small ones more often */

/* ops_procs.c */
extern int far_who;                       /* WHO_A or WHO_B: it is in another network namespace; -1: neither */
bool proc_far(int who, const char *name); /* of that namespace; false: there is none */
bool proc_alive(int who);
bool proc_usable(int who); /* alive and not stopped */
void proc_spawn(int who);
void proc_kill(int who); /* and waits until it has gone */
void proc_gone(int who); /* it ends by itself: waits for it */
void proc_adopt(int who, pid_t pid, int channel);
void proc_stop(int who, bool stop);
void proc_end_all(void);
void post(int who, const struct order *o, int fd);
void hear(int who, const struct order *o, struct answer *a);
void ask(int who, const struct order *o, struct answer *a);
void perform(int who, const struct order *o, struct answer *a); /* asks and shows */
void show(int who, int end, const char *text);

/* ops_model.c; ends are numbered as in orders */
struct conn *conn_of(int e);
struct end *end_of(int e);
struct stream *out_of(int e); /* what the end writes */
struct stream *in_of(int e);
uint64_t unread(int e); /* what it has not read */
bool end_open(int e);
bool end_sole(int e, int who); /* no other process has it */
int end_user(int e);           /* one that may use it now, or -1 */
int end_copy(int e, int who);
bool at_rest(int e); /* open for data both ways, nothing unread, nothing full */
struct order order_on(int e, int who, int op);
void settle(int e, int who);
void settle_process(int who);
bool calm(int e); /* nothing is on its way on its connection; false: nobody can tell */
bool watched(int e, uint32_t with);
bool unwatch(int e, uint32_t with); /* takes it out of the epoll instances where it has one of the flags */
bool may_close(int e, bool linger);
bool may_be_reset(int e);  /* its connection */
bool may_be_shared(int e); /* handed to another process */
bool may_be_inherited(int who);
bool may_be_refused(int e); /* what it sends may be answered with a reset, as it would be now: */
bool would_be_refused(int e);
void close_end(int e, int who, int how); /* the last descriptor that this process has, or another one */
bool may_end(int who);
void end_process(int who, bool by_signal);
bool may_shutdown(int e, int how);
void do_shutdown(int e, int who, int how);
void do_send(int e, int who, struct order *o);
uint8_t how_to_take(int e); /* a call of those that may read bytes that are there */
void drain(int e, int who);
bool stream_new(struct stream *s);

/* ops_play.c */
bool draw(int *e, int *who); /* an open end and a process that may use it */
bool draw_process(int *who);
void start_processes(void); /* A and B, if they are not there */
void play(unsigned int steps);

/* Operations; false: there is nothing to do it with. */
bool play_send(void); /* ops_bytes.c */
bool play_transfer(void);
bool play_recv(void);
bool play_take(void);
bool play_drain(void);
bool play_fill(void);
bool play_poll(void); /* ops_look.c */
bool play_epoll_ctl(void);
bool play_epoll_wait(void);
bool play_option(void);
bool play_names(void);
bool play_inq(void);
bool play_outq(void);
bool play_nonblock(void);
bool play_timeout(void);
bool play_shutdown(void);
bool play_close(void);
bool play_sleep(void); /* ops_sleep.c */
bool play_sleep_send(void);

#endif
