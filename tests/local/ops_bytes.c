// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Operations that move bytes. What is sent without a reader stays below what Linux takes for
 * one (UNREAD_MOST); more goes by play_transfer(), where the other end reads at the same time,
 * or by play_fill(), after which the stream is FULL until somebody drains it.
 */
#include "tests/local/ops_script.h"

#include <sys/epoll.h>

#define ROOM_FAR 4000 /* so little never waits for the acknowledgement of a far end, which would make an edge */

bool play_send(void)
{
	int e, who;
	uint64_t room;
	struct order o;

	if (!draw(&e, &who) || out_of(e)->state == MURKY)
		return false;
	room = unread(e ^ 1) < UNREAD_MOST ? UNREAD_MOST - unread(e ^ 1) : 0;
	if (far_who >= 0 && room > ROOM_FAR && watched(e, EPOLLET))
		room = ROOM_FAR;
	if (in_of(e)->state != FLOWS && (!end_open(e ^ 1) || in_of(e)->fin))
		return false;
	if (!calm(e) || (out_of(e)->state == FLOWS && !room))
		return false;
	if (would_be_refused(e) && !(may_be_refused(e) && may_be_reset(e)))
		return false;
	o = order_on(e, who, DO_SEND);
	if (out_of(e)->state == FULL) {
		o.flags = MSG_DONTWAIT;
		o.n = 1 + rnd(1000);
		o.some = 1; /* a probe of the window may have made room */
	} else {
		o.how = (uint8_t)rnd(SEND_HOWS);
		o.n = rnd_length(end_open(e ^ 1) && !conn_of(e)->reset ? room : 2000);
		o.flags = (one_in(4) ? MSG_DONTWAIT : 0) | (one_in(6) ? MSG_NOSIGNAL : 0);
		if (o.how == SEND_WRITE || o.how == SEND_WRITEV || o.how == SEND_SENDFILE)
			o.flags = 0;
		if (would_be_refused(e) && o.how >= SEND_MORE)
			o.how = SEND_SEND; /* between two calls, the reset may come or not */
	}
	do_send(e, who, &o);
	return true;
}

/* More than Linux would take without a reader: one end writes while the other one reads. */
bool play_transfer(void)
{
	int e, who, other;
	struct order o, r;
	struct answer a, b;
	struct stream *s;

	if (!draw(&e, &who) || (other = end_user(e ^ 1)) < 0 || conn_of(e)->reset)
		return false;
	s = out_of(e);
	if (s->fin || s->state != FLOWS || end_of(e ^ 1)->shut_rd || !unwatch(e, EPOLLET))
		return false;
	o = order_on(e, who, who == other ? DO_PUMP : DO_PUSH);
	r = order_on(e ^ 1, other, DO_TAKE);
	o.how = (uint8_t)rnd(SEND_CORK + 1);
	o.n = 1 + (one_in(3) ? rnd(LONGEST) : rnd_length(LONGEST));
	o.arg = 1 + (int)(o.n / (1 + rnd(8)));
	o.key = r.key = s->key;
	o.pos = s->sent;
	o.pos2 = r.pos = s->read;
	o.mask = r.copy;
	r.n = o.n + unread(e ^ 1);
	r.arg = 1 + (int)(r.n / (1 + rnd(8)));
	r.arg = r.arg > LONGEST ? LONGEST : r.arg;
	o.arg = o.arg > LONGEST ? LONGEST : o.arg;
	r.how = (uint8_t)rnd(RECV_HOWS);
	r.flags = one_in(3) && r.how != RECV_READ && r.how != RECV_READV ? MSG_WAITALL : 0;
	post(who, &o, -1);
	if (who != other)
		post(other, &r, -1);
	hear(who, &o, &a);
	show(who, e, a.text);
	if (who != other) {
		hear(other, &r, &b);
		show(other, e ^ 1, b.text);
	}
	s->sent += o.n;
	s->read = s->sent;
	end_of(e)->news = end_of(e ^ 1)->news = true;
	return true;
}

static bool at_end(int e)
{
	return in_of(e)->fin || end_of(e)->shut_rd || conn_of(e)->reset;
}

bool play_recv(void)
{
	int e, who;
	struct order o;
	struct answer a;
	uint64_t have;

	if (!draw(&e, &who) || in_of(e)->state != FLOWS || !calm(e))
		return false;
	have = unread(e);
	o = order_on(e, who, DO_RECV);
	o.how = (uint8_t)rnd(RECV_HOWS);
	o.n = have && one_in(2) ? 1 + rnd((uint32_t)have) : rnd_length(LONGEST);
	if (!have && !at_end(e)) {
		if (!end_of(e)->nonblock) {
			o.flags = MSG_DONTWAIT;
			o.how = RECV_RECV;
		}
	} else {
		o.flags = one_in(5) ? MSG_PEEK : one_in(8) ? MSG_TRUNC : one_in(4) ? MSG_DONTWAIT : 0;
		if (!o.flags && (o.n <= have || at_end(e)) && one_in(2))
			o.flags = MSG_WAITALL;
	}
	if (o.how == RECV_READ || o.how == RECV_READV)
		o.flags = 0;
	o.key = in_of(e)->key;
	o.pos = in_of(e)->read;
	perform(who, &o, &a);
	if (a.r > 0 && !(o.flags & MSG_PEEK))
		in_of(e)->read += (uint64_t)a.r;
	return true;
}

/* A reader that sleeps until what was sent has come, as one that knows how much it wants. */
bool play_take(void)
{
	int e, who;
	struct order o;
	struct answer a;
	struct stream *in;

	if (!draw(&e, &who) || !unread(e) || (end_of(e)->shut_rd && !calm(e)))
		return false;
	in = in_of(e);
	o = order_on(e, who, DO_TAKE);
	o.how = how_to_take(e);
	o.n = 1 + rnd((uint32_t)(unread(e) < 4096 || in->state == FLOWS ? unread(e) : 4096));
	o.arg = (int)rnd_length(LONGEST);
	if (o.arg < (int)o.n / 50)
		o.arg = (int)o.n;
	o.key = in->key;
	o.pos = in->read;
	if (in->state != FLOWS)
		in->state = MURKY;
	perform(who, &o, &a);
	in->read += o.n;
	return true;
}

bool play_drain(void)
{
	int e, who;

	if (!draw(&e, &who) || !unread(e) || (end_of(e)->shut_rd && !calm(e)))
		return false;
	drain(e, who);
	return true;
}

bool play_fill(void)
{
	int e, who;
	struct order o;
	struct answer a;
	struct stream *s;

	if (!draw(&e, &who) || !end_open(e ^ 1) || conn_of(e)->reset)
		return false;
	s = out_of(e);
	if (s->fin || s->state != FLOWS || end_of(e ^ 1)->shut_rd)
		return false;
	if (!calm(e) || !unwatch(e, ~0u) || !unwatch(e ^ 1, ~0u))
		return false;
	o = order_on(e, who, DO_FILL);
	o.arg = 1000 + (int)rnd(64000);
	o.some = far_who >= 0;
	o.key = s->key;
	o.pos = s->sent;
	perform(who, &o, &a);
	s->sent += a.r > 0 ? (uint64_t)a.r : 0;
	s->state = FULL;
	end_of(e ^ 1)->news = true;
	return true;
}
