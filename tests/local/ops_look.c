// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Operations that look at ends: events, options, names, queues; and those that shut and close.
 */
#include "tests/local/ops_script.h"

#include <sys/epoll.h>

/* ---- events ---- */

bool play_poll(void)
{
	struct order o = {.op = DO_POLL, .how = (uint8_t)(1 + rnd(2))};
	struct answer a;
	int who;

	if (!draw_process(&who))
		return false;
	settle_process(who);
	for (int e = 0; e < ENDS; e++) {
		if (!conn_of(e)->used || !end_of(e)->copies[who] || in_of(e)->state == MURKY)
			continue;
		if (far_who >= 0 && in_of(e)->state == FULL && in_of(e)->fin) /* the FIN may find room, or not */
			continue;
		o.mask |= 1u << e;
		if (out_of(e)->state == FLOWS && one_in(2))
			o.mask2 |= 1u << e;
	}
	o.end = 0;
	o.some = far_who >= 0;
	ask(who, &o, &a);
	show(who, -1, a.text);
	return true;
}

bool play_epoll_ctl(void)
{
	static const uint32_t modes[] = {0, 0, EPOLLET, EPOLLONESHOT, EPOLLET | EPOLLONESHOT};
	int e, who;
	struct end *end;
	struct order o;
	struct answer a;
	uint32_t events;

	if (!draw(&e, &who) || in_of(e)->state != FLOWS || out_of(e)->state != FLOWS || !calm(e))
		return false;
	end = end_of(e);
	events = EPOLLIN | (one_in(2) ? EPOLLOUT : 0) | (one_in(2) ? EPOLLRDHUP : 0) | modes[rnd(5)];
	if (out_of(e)->fin || conn_of(e)->reset)
		events &= ~(uint32_t)EPOLLET;
	o = order_on(e, who, DO_EPOLL_CTL);
	o.arg = !end->watch[who] ? EPOLL_CTL_ADD : one_in(4) ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
	if (end->watch[who])
		o.copy = end->watch_copy[who];
	o.flags = (int)events;
	if (o.arg == EPOLL_CTL_DEL)
		o.flags = 0;
	perform(who, &o, &a);
	end->watch[who] = o.arg == EPOLL_CTL_DEL ? 0 : events;
	end->watch_copy[who] = o.copy;
	return true;
}

/* A process that has something in its epoll instance, if there is one. */
static bool draw_watcher(int *who)
{
	int first = (int)rnd(ENDS * WHO_MAX);

	for (int i = 0; i < ENDS * WHO_MAX; i++) {
		int e = (first + i) % (ENDS * WHO_MAX) / WHO_MAX;

		*who = (first + i) % WHO_MAX;
		if (conn_of(e)->used && end_of(e)->watch[*who] && proc_usable(*who))
			return true;
	}
	return draw_process(who);
}

/* Mostly twice: the second one shows what an edge is, and one shot. */
bool play_epoll_wait(void)
{
	struct order o = {.op = DO_EPOLL_WAIT};
	struct answer a;
	int who;

	if (!draw_watcher(&who))
		return false;
	settle_process(who);
	for (int e = 0; e < ENDS && far_who >= 0; e++) { /* connections within the host stay with Linux */
		uint32_t watch = conn_of(e)->used ? end_of(e)->watch[who] : 0;

		o.mask |= watch ? 1u << e : 0;
		o.mask2 |= watch & EPOLLONESHOT ? 1u << e : 0;
		o.flags |= (watch & (EPOLLET | EPOLLONESHOT)) == EPOLLET ? 1 << e : 0;
	}
	for (int times = one_in(3) ? 1 : 2; times; times--) {
		ask(who, &o, &a);
		show(who, -1, a.text);
	}
	return true;
}

/* ---- what a socket is ---- */

bool play_option(void)
{
	int e, who, row = (int)rnd((uint32_t)option_count);
	const struct option_row *r = &option_rows[row];
	struct order o;
	struct answer a;

	if (!draw(&e, &who) || !calm(e))
		return false;
	o = order_on(e, who, DO_OPTION);
	o.arg = row;
	o.how = r->value[0] >= 0 && ((r->once_set && !(end_of(e)->options & 1u << row)) || one_in(2));
	if (o.how) {
		end_of(e)->options |= 1u << row;
		o.n = (uint64_t)r->value[rnd(2)];
	}
	perform(who, &o, &a);
	return true;
}

/* The orders that need an end and a process, and nothing else. */
static bool play_simple(int op, int how, int arg, uint64_t n, bool wants_rest)
{
	int e, who;
	struct order o;
	struct answer a;

	if (!draw(&e, &who) || (wants_rest && !at_rest(e)) || in_of(e)->state != FLOWS || !calm(e))
		return false;
	o = order_on(e, who, op);
	o.how = (uint8_t)how;
	o.arg = arg;
	o.n = n;
	o.some = far_who >= 0;
	if (op == DO_NAMES) {
		o.arg = conn_of(e)->port;
		o.n = (uint64_t)conn_of(e)->server_port;
	}
	if (op == DO_TIMEOUT && end_of(e)->nonblock)
		return false;
	if (op == DO_NONBLOCK)
		end_of(e)->nonblock = arg;
	perform(who, &o, &a);
	return true;
}

bool play_names(void)
{
	return play_simple(DO_NAMES, 0, 0, 0, false);
}
bool play_inq(void)
{
	return play_simple(DO_INQ, 0, 0, 0, false);
}
bool play_outq(void)
{
	return play_simple(DO_OUTQ, 0, 0, 0, true);
}
bool play_nonblock(void)
{
	return play_simple(DO_NONBLOCK, (int)rnd(2), (int)rnd(2), 0, false);
}
bool play_timeout(void)
{
	return play_simple(DO_TIMEOUT, 0, 5 + (int)rnd(10), 0, true);
}

bool play_shutdown(void)
{
	int e, who, how = (int)rnd(3);

	if (!draw(&e, &who) || !may_shutdown(e, how))
		return false;
	do_shutdown(e, who, how);
	return true;
}

bool play_close(void)
{
	int e, who, how = (int)rnd(CLOSE_HOWS);
	bool last;

	if (!draw(&e, &who))
		return false;
	last = end_sole(e, who) && !(end_of(e)->copies[who] & (end_of(e)->copies[who] - 1));
	if (!last && how == CLOSE_LINGER)
		how = CLOSE_CLOSE;
	if (last && !may_close(e, how == CLOSE_LINGER))
		return false;
	close_end(e, who, how);
	return true;
}
