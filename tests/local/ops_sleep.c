// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Operations in which a thread sleeps in a call and something wakes it: bytes, an end, a reset,
 * a signal, the death of the process at the other end, room. The three lines (what wakes it
 * may be several) are one operation: nothing else happens meanwhile.
 */
#include "tests/local/ops_script.h"

#include <poll.h>

#define SLEEP_MS 4000
#define PUSHED (16u << 20) /* more than any buffer takes */
#define WOKEN_LENGTH 1000  /* one segment: what wakes the reader is all there is */

enum sleep_in { IN_RECV, IN_PEEK, IN_WAITALL, IN_WAIT, IN_HOWS };

enum wake {
	WAKE_DATA,
	WAKE_FIN,
	WAKE_CLOSE,
	WAKE_LINGER,
	WAKE_DEATH,
	WAKE_SIGNAL,
	WAKE_RESTART, /* a signal with SA_RESTART, then bytes */
	WAKE_OWN_SHUTDOWN,
	WAKE_TIMEOUT,
	WAKES
};

static bool last_copy(int e, int who)
{
	return end_sole(e, who) && !(end_of(e)->copies[who] & (end_of(e)->copies[who] - 1));
}

/* The other end is in its place, and what wakes would have one outcome. */
static bool wake_possible(enum wake wake, int e, int other, int who)
{
	switch (wake) {
	case WAKE_FIN:
		return may_shutdown(e ^ 1, 1);
	case WAKE_CLOSE:
	case WAKE_LINGER:
		return last_copy(e ^ 1, other) && may_close(e ^ 1, wake == WAKE_LINGER);
	case WAKE_DEATH:
		return other != who && end_sole(e ^ 1, other) && may_end(other);
	case WAKE_OWN_SHUTDOWN:
		return may_shutdown(e, 0);
	default:
		return true;
	}
}

/* Does it not wait for what was sent just before? */
static bool overtakes(enum wake wake)
{
	return wake != WAKE_DATA && wake != WAKE_FIN;
}

static void send_some(int e, int who, uint64_t n)
{
	struct order o = order_on(e, who, DO_SEND);

	o.n = n;
	do_send(e, who, &o);
}

static void signal_thread(int e, int who, bool restart)
{
	struct order o = {.op = DO_SIGNAL, .how = restart, .end = (uint8_t)e};
	struct answer a;

	perform(who, &o, &a);
}

static void wake_up(enum wake wake, int e, int other, int who)
{
	switch (wake) {
	case WAKE_RESTART:
		signal_thread(e, who, true);
		send_some(e ^ 1, other, 1 + rnd(WOKEN_LENGTH));
		break;
	case WAKE_DATA:
		send_some(e ^ 1, other, 1 + rnd(WOKEN_LENGTH));
		break;
	case WAKE_FIN:
		do_shutdown(e ^ 1, other, 1);
		break;
	case WAKE_CLOSE:
	case WAKE_LINGER:
		close_end(e ^ 1, other, wake == WAKE_LINGER ? CLOSE_LINGER : CLOSE_CLOSE);
		break;
	case WAKE_DEATH:
		end_process(other, true);
		break;
	case WAKE_SIGNAL:
		signal_thread(e, who, false);
		break;
	case WAKE_OWN_SHUTDOWN:
		do_shutdown(e, who, 0);
		break;
	default:
		break;
	}
}

static void join(int e, int who, struct answer *a)
{
	struct order o = {.op = DO_JOIN, .end = (uint8_t)e};

	perform(who, &o, a);
}

/* Nothing to read, and the other end is able to send. */
static bool may_sleep(int e)
{
	struct conn *c = conn_of(e);

	return end_open(e ^ 1) && !c->reset && !in_of(e)->fin && !out_of(e)->fin && !end_of(e)->shut_rd && !unread(e) &&
	       in_of(e)->state == FLOWS && out_of(e)->state == FLOWS && !end_of(e)->nonblock;
}

static void fill_in(struct order *o, enum sleep_in in, enum wake wake, int e)
{
	o->thread = 1;
	o->key = in_of(e)->key;
	o->pos = in_of(e)->read;
	if (in == IN_WAIT) {
		o->how = (uint8_t)rnd(WAIT_HOWS);
		o->arg = POLLIN | (o->how != WAIT_SELECT ? POLLRDHUP : 0);
		o->n = wake == WAKE_TIMEOUT ? 5 : SLEEP_MS;
		return;
	}
	o->how = (uint8_t)rnd(RECV_HOWS);
	o->n = in == IN_WAITALL ? 3 * WOKEN_LENGTH : WOKEN_LENGTH;
	o->flags = in == IN_PEEK ? MSG_PEEK : in == IN_WAITALL ? MSG_WAITALL : 0;
	if (o->flags && (o->how == RECV_READ || o->how == RECV_READV))
		o->how = RECV_RECV;
}

bool play_sleep(void)
{
	enum sleep_in in = rnd(IN_HOWS);
	enum wake wake = rnd(WAKES);
	int e, who, other;
	struct order o;
	struct answer a;

	if (!draw(&e, &who) || (other = end_user(e ^ 1)) < 0 || !may_sleep(e) || !calm(e))
		return false;
	if ((wake == WAKE_TIMEOUT && in != IN_WAIT) || (wake == WAKE_RESTART && (in == IN_WAIT || in == IN_WAITALL)))
		wake = WAKE_DATA;
	if (!wake_possible(wake, e, other, who))
		return false;
	o = order_on(e, who, in == IN_WAIT ? DO_WAIT : DO_RECV);
	fill_in(&o, in, wake, e);
	ask(who, &o, &a);
	if (in == IN_WAITALL && !overtakes(wake)) /* does not end it, unless another wake-up does */
		send_some(e ^ 1, other, WOKEN_LENGTH / 2);
	wake_up(wake, e, other, who);
	if (in == IN_WAITALL && wake == WAKE_DATA)
		send_some(e ^ 1, other, o.n - unread(e));
	join(e, who, &a);
	if (a.r > 0 && (in == IN_RECV || in == IN_WAITALL))
		in_of(e)->read += (uint64_t)a.r;
	start_processes();
	return true;
}

/* The stream is full, its writer sleeps until the reader makes room, or goes. */
bool play_sleep_send(void)
{
	int e, who, other;
	bool gone = one_in(3), in_send = gone || one_in(2);
	struct order o;
	struct answer a;
	struct stream *s;

	if (!draw(&e, &who) || out_of(e)->state != FULL || out_of(e)->fin || end_of(e)->nonblock)
		return false;
	other = end_user(e ^ 1);
	if (other < 0 || end_of(e ^ 1)->shut_rd || !calm(e))
		return false;
	if (gone && (!last_copy(e ^ 1, other) || !may_close(e ^ 1, false)))
		return false;
	s = out_of(e);
	o = order_on(e, who, !in_send ? DO_WAIT : gone ? DO_PUSH : DO_SEND);
	o.thread = 1;
	o.key = s->key;
	o.pos = s->sent;
	o.n = !in_send ? SLEEP_MS : gone ? PUSHED : 1 + rnd(50000); /* pushed until the error comes */
	o.how = in_send ? rnd(SEND_SENDFILE) : rnd(WAIT_HOWS);
	o.arg = in_send ? LONGEST : POLLOUT;
	ask(who, &o, &a);
	s->sent += in_send && !gone ? o.n : 0;
	if (gone)
		close_end(e ^ 1, other, CLOSE_CLOSE);
	else
		drain(e ^ 1, other);
	join(e, who, &a);
	return true;
}
