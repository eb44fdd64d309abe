// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The operations of a script, drawn by weight (the table is at the end of the file). Each looks
 * for something to be played with, by chance, lets what is on its way arrive, gives the order,
 * and notes what that changes. What is drawn depends on the seed alone, never on an answer.
 */
#include "tests/local/ops_script.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

const char *service_command;
int taken_pause_ms;

uint32_t rnd(uint32_t n)
{
	return (uint32_t)(mix64(++script.rnd) >> 16) % n;
}

bool one_in(uint32_t n)
{
	return rnd(n) == 0;
}

uint64_t rnd_length(uint64_t most)
{
	static const uint32_t classes[] = {1, 16, 100, 1448, 5000, 20000, 70000, LONGEST};
	uint32_t of = classes[rnd(8)];
	uint64_t n = 1 + rnd(of);

	return n < most ? n : most;
}

static int server_who(void)
{
	return script.single ? WHO_A : WHO_B;
}

/* An open end and a process that may use it. */
bool draw(int *e, int *who)
{
	int first = (int)rnd(ENDS);

	for (int i = 0; i < ENDS; i++) {
		*e = (first + i) % ENDS;
		if (end_open(*e) && (*who = end_user(*e)) >= 0)
			return true;
	}
	return false;
}

bool draw_process(int *who)
{
	*who = (int)rnd(WHO_MAX);
	return proc_usable(*who);
}

/* ---- connections ---- */

static void listen_again(void)
{
	struct order o = {.op = DO_LISTEN};
	struct answer a;

	ask(server_who(), &o, &a);
	script.port = (int)a.r;
}

void start_processes(void)
{
	bool again = false;

	for (int who = WHO_A; who <= server_who(); who++)
		if (!proc_alive(who)) {
			proc_spawn(who);
			again |= who == server_who();
		}
	if (again)
		listen_again();
}

/* Both ends speak in turn: exchanges, of which the library counts some before it takes a connection. */
static void talk(int e, int who, int other, int rounds)
{
	for (int i = 0; i < 2 * rounds && !script.failed; i++, e ^= 1) {
		int from = i & 1 ? other : who, to = i & 1 ? who : other;
		struct order o = order_on(e, from, DO_PUSH);
		struct answer a;
		struct stream *out = out_of(e);

		o.n = rnd_length(3000);
		o.arg = LONGEST;
		o.key = out->key;
		o.pos = out->sent;
		ask(from, &o, &a);
		out->sent += o.n;
		if (a.r < 0)
			show(from, e, a.text);
		end_of(e ^ 1)->news = true;
		drain(e ^ 1, to);
	}
}

static bool play_talk(void)
{
	int e, who, other;

	if (!draw(&e, &who) || !at_rest(e) || (other = end_user(e ^ 1)) < 0)
		return false;
	talk(e, who, other, 1 + (int)rnd(6));
	return true;
}

static void set_nodelay(int e, int who)
{
	struct order o = order_on(e, who, DO_OPTION);
	struct answer a;

	o.how = 1;
	o.n = 1; /* row 0 */
	perform(who, &o, &a);
}

static bool play_connect(void)
{
	int client = WHO_A, server = server_who(), c = 0;
	struct order o = {.op = DO_CONNECT, .how = (uint8_t)rnd(CONNECT_HOWS), .arg = script.port};
	struct answer a;

	while (c < CONNS && script.conns[c].used)
		c++;
	if (c == CONNS || !proc_usable(client) || !proc_usable(server))
		return false;
	o.end = (uint8_t)(2 * c);
	script.conns[c] = (struct conn){.used = true};
	for (int i = 0; i < 2; i++)
		stream_new(&script.conns[c].stream[i]);
	perform(client, &o, &a);
	script.conns[c].port = (int)a.r;
	script.conns[c].server_port = script.port;
	script.conns[c].end[0].copies[client] = 1;
	script.conns[c].end[0].user = (uint8_t)client;
	script.conns[c].end[1].copies[server] = 1; /* it will be */
	script.conns[c].end[1].user = (uint8_t)server;
	if (one_in(3)) { /* before anybody has accepted it */
		struct order early = order_on(2 * c, client, DO_SEND);

		early.n = rnd_length(5000);
		do_send(2 * c, client, &early);
	}
	o = (struct order){.op = DO_ACCEPT, .how = (uint8_t)rnd(2), .end = (uint8_t)(2 * c + 1)};
	perform(server, &o, &a);
	if (!one_in(12)) {
		set_nodelay(2 * c, client);
		set_nodelay(2 * c + 1, server);
	}
	if (!one_in(4) && at_rest(2 * c))
		talk(2 * c, client, server, 2 + (int)rnd(5));
	if (taken_pause_ms)
		usleep((useconds_t)taken_pause_ms * 1000);
	return true;
}

/* ---- descriptors and processes ---- */
static int copy_free(int e, int who)
{
	for (int k = 0; k < COPIES; k++)
		if (!(end_of(e)->copies[who] & 1 << k))
			return k;
	return -1;
}

static bool play_dup(void)
{
	int e, who;
	struct order o;
	struct answer a;

	if (!draw(&e, &who) || copy_free(e, who) < 0)
		return false;
	o = order_on(e, who, DO_DUP);
	o.how = (uint8_t)rnd(DUP_HOWS);
	o.arg = copy_free(e, who);
	perform(who, &o, &a);
	end_of(e)->copies[who] |= (uint8_t)(1 << o.arg);
	return true;
}

static bool play_fork(void)
{
	int who = one_in(2) ? WHO_A : WHO_B, child = who + WHO_CHILD_A, s[2];
	struct order o = {.op = DO_FORK, .how = (uint8_t)rnd(FORK_HOWS)};
	struct answer a;

	if (!proc_usable(who) || proc_alive(child) || !may_be_inherited(who) ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s))
		return false;
	post(who, &o, s[1]);
	hear(who, &o, &a);
	show(who, -1, a.text);
	if (a.r > 0)
		proc_adopt(child, (pid_t)a.r, s[0]);
	for (int e = 0; e < ENDS; e++) {
		end_of(e)->copies[child] = end_of(e)->copies[who];
		end_of(e)->moved |= end_of(e)->copies[who] != 0;
	}
	return true;
}

/* The same process with a new image; its epoll instance does not outlive that. */
static bool play_exec(void)
{
	struct order o = {.op = DO_EXEC};
	int who;

	if (!draw_process(&who) || !may_be_inherited(who))
		return false;
	post(who, &o, -1);
	show(who, -1, "exec");
	for (int e = 0; e < ENDS; e++) {
		end_of(e)->watch[who] = 0;
		end_of(e)->moved |= end_of(e)->copies[who] != 0;
	}
	if (who == server_who())
		listen_again();
	return true;
}

/* By SCM_RIGHTS, to a process with the library or to one without. */
static bool play_pass(void)
{
	int e, who, to = one_in(2) ? WHO_HELPER : WHO_OUTSIDER, s[2];
	struct order o, get;
	struct answer a;

	if (!draw(&e, &who) || who == to || script.stopped == to || copy_free(e, to) < 0 || !may_be_shared(e))
		return false;
	if (!proc_alive(to))
		proc_spawn(to);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s))
		return false;
	o = order_on(e, who, DO_PASS);
	get = (struct order){.op = DO_GET, .end = (uint8_t)e, .copy = (uint8_t)copy_free(e, to)};
	post(who, &o, s[0]);
	hear(who, &o, &a);
	show(who, e, a.text);
	post(to, &get, s[1]);
	hear(to, &get, &a);
	end_of(e)->copies[to] |= (uint8_t)(1 << get.copy);
	end_of(e)->moved = true;
	return true;
}

static bool play_end_process(void)
{
	bool by_signal = one_in(2);
	int who = (int)rnd(WHO_MAX);

	if (!proc_alive(who) || (who <= WHO_B && one_in(2)) || (!by_signal && !proc_usable(who)) || !may_end(who))
		return false;
	end_process(who, by_signal);
	start_processes();
	return true;
}

static bool play_stop(void)
{
	int who;

	if (script.single || script.stopped >= 0 || !draw_process(&who))
		return false;
	proc_stop(who, true);
	script.resume_in = 1 + (int)rnd(6);
	return true;
}

/* What is done to the service is no part of the transcript. */
static bool play_service(void)
{
	if (service_command && system(service_command))
		return true;
	return true;
}

/* ---- the script ---- */

static const struct play {
	const char *name;
	bool (*play)(void);
	unsigned int weight;
} plays[] = {
	{"connect", play_connect, 60},
	{"talk", play_talk, 50},
	{"send", play_send, 120},
	{"recv", play_recv, 110},
	{"take", play_take, 50},
	{"drain", play_drain, 60},
	{"transfer", play_transfer, 50},
	{"fill", play_fill, 7},
	{"poll", play_poll, 40},
	{"epoll_ctl", play_epoll_ctl, 60},
	{"epoll_wait", play_epoll_wait, 60},
	{"sleep", play_sleep, 50},
	{"sleep in send", play_sleep_send, 40},
	{"option", play_option, 30},
	{"names", play_names, 10},
	{"inq", play_inq, 20},
	{"outq", play_outq, 4},
	{"nonblock", play_nonblock, 15},
	{"timeout", play_timeout, 3},
	{"shutdown", play_shutdown, 20},
	{"close", play_close, 35},
	{"dup", play_dup, 15},
	{"fork", play_fork, 10},
	{"exec", play_exec, 5},
	{"pass", play_pass, 20},
	{"end process", play_end_process, 12},
	{"stop", play_stop, 10},
	{"service", play_service, 10},
};

#define PLAYS (sizeof plays / sizeof *plays)
#define DRAWS_MOST 50

static const struct play *draw_play(void)
{
	unsigned int sum = 0, at;

	for (size_t i = 0; i < PLAYS; i++)
		sum += plays[i].weight;
	at = rnd(sum);
	for (size_t i = 0; i < PLAYS; i++) {
		if (at < plays[i].weight)
			return &plays[i];
		at -= plays[i].weight;
	}
	return &plays[0];
}

/* Whatever is still under way is read to its end, by whom it may concern. */
static void finish(void)
{
	for (int e = 0; e < ENDS; e++) {
		int who;

		if (!end_open(e) || (who = end_user(e)) < 0 || (end_of(e)->shut_rd && !calm(e)))
			continue;
		if (unread(e))
			drain(e, who);
	}
	for (int e = 0; e < ENDS && !script.failed; e++)
		for (int who = 0; who < WHO_MAX; who++)
			while (conn_of(e)->used && end_of(e)->copies[who] && proc_usable(who) && calm(e) &&
			       !script.failed)
				close_end(e, who, CLOSE_CLOSE);
}

void play(unsigned int steps)
{
	start_processes();
	play_connect();
	for (unsigned int i = 0; i < steps && !script.failed; i++) {
		for (int draws = 0; draws < DRAWS_MOST && !draw_play()->play() && !script.failed; draws++)
			;
		if (script.stopped >= 0 && --script.resume_in <= 0)
			proc_stop(script.stopped, false);
	}
	if (script.stopped >= 0)
		proc_stop(script.stopped, false);
	finish();
	proc_end_all();
}
