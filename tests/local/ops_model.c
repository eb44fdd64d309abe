// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the director knows of the connections. It does not foretell what a call says: the two
 * transcripts are compared for that. It knows what is on its way from one end to the other, so
 * that an operation is played only when that has arrived, and it knows which operations would
 * not have one outcome on Linux, so that they are not played:
 *
 *  - A reset drops what is not yet at the other end. So whatever leads to one (a close with
 *    unread bytes or SO_LINGER, bytes for an end that is closed) is played when all has
 *    arrived, and never with a stream behind it that is full.
 *  - After a stream was filled, how much Linux takes, and when it is writable again, is not
 *    foretold: until it is drained its writer is asked nothing that depends on that.
 *  - Edges: an end that sends FIN, or that waited for room, gets wake-ups at times of its own
 *    (EPOLLET reports them), so it is taken out of the epoll sets before if it is there so.
 */
#include "tests/local/ops_script.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

struct script script;

struct conn *conn_of(int e)
{
	return &script.conns[e / 2];
}
struct end *end_of(int e)
{
	return &conn_of(e)->end[e & 1];
}
struct stream *out_of(int e)
{
	return &conn_of(e)->stream[e & 1];
}
struct stream *in_of(int e)
{
	return &conn_of(e)->stream[!(e & 1)];
}
uint64_t unread(int e)
{
	return in_of(e)->sent - in_of(e)->read;
}

/* A key that no other stream has. */
bool stream_new(struct stream *s)
{
	s->key = mix64(++script.keys);
	s->sent = s->read = 0;
	s->state = FLOWS;
	return true;
}

bool end_open(int e)
{
	for (int who = 0; who < WHO_MAX; who++)
		if (end_of(e)->copies[who])
			return conn_of(e)->used;
	return false;
}

bool end_sole(int e, int who)
{
	for (int other = 0; other < WHO_MAX; other++)
		if (other != who && end_of(e)->copies[other])
			return false;
	return end_of(e)->copies[who] != 0;
}

/* Mostly who used it last: a child and its parent take turns, but not at each call. */
int end_user(int e)
{
	struct end *end = end_of(e);
	int first = (int)rnd(WHO_MAX);

	if (end->copies[end->user] && proc_usable(end->user) && !one_in(6))
		return end->user;
	for (int i = 0; i < WHO_MAX; i++) {
		int who = (first + i) % WHO_MAX;

		if (end->copies[who] && proc_usable(who))
			return end->user = (uint8_t)who;
	}
	return -1;
}

int end_copy(int e, int who)
{
	int k = (int)rnd(COPIES);

	while (!(end_of(e)->copies[who] & 1 << k))
		k = (k + 1) % COPIES;
	return k;
}

bool at_rest(int e)
{
	struct conn *c = conn_of(e);

	if (!end_open(e) || !end_open(e ^ 1) || c->reset)
		return false;
	for (int i = 0; i < 2; i++)
		if (c->stream[i].fin || c->stream[i].state != FLOWS || c->end[i].shut_rd ||
		    c->stream[i].sent != c->stream[i].read)
			return false;
	return true;
}

struct order order_on(int e, int who, int op)
{
	return (struct order){.op = (uint8_t)op, .end = (uint8_t)e, .copy = (uint8_t)end_copy(e, who)};
}

/*
 * ---- what is on its way ----
 *
 * Across a network everything is waited for before each look: while a connection is adopted, or goes to another process,
 * a call that does not wait (poll() with no time-out, FIONREAD) may see too little for some hundred microseconds.
 */

static struct want want_of(int e, int who)
{
	struct conn *c = conn_of(e);
	struct stream *in = in_of(e);
	struct want w = {.end = (uint8_t)e, .copy = (uint8_t)__builtin_ctz(end_of(e)->copies[who])};
	bool both = c->stream[0].fin && c->stream[1].fin && c->stream[0].state == FLOWS && c->stream[1].state == FLOWS;

	w.closed = c->reset || both;
	w.unread = in->state == FLOWS ? unread(e) : 1;
	w.events = w.unread ? POLLIN : 0;
	if (in->state == FLOWS && in->fin)
		w.events |= POLLIN | POLLRDHUP;
	if (out_of(e)->state == FLOWS)
		w.events |= POLLOUT;
	if (w.closed)
		w.events |= POLLHUP | POLLRDHUP;
	return w;
}

static void settle_order(int who, struct order *o)
{
	struct answer a;

	o->op = DO_SETTLE;
	if (!o->wants)
		return;
	ask(who, o, &a);
	if (a.r < 0 && !script.failed)
		show(who, -1, a.text);
}

void settle(int e, int who)
{
	struct order o = {0};

	if (end_of(e)->news || far_who >= 0)
		o.want[o.wants++] = want_of(e, who);
	end_of(e)->news = false;
	settle_order(who, &o);
}

void settle_process(int who)
{
	struct order o = {0};

	for (int e = 0; e < ENDS; e++)
		if (conn_of(e)->used && end_of(e)->copies[who] && (end_of(e)->news || far_who >= 0)) {
			o.want[o.wants++] = want_of(e, who);
			end_of(e)->news = false;
		}
	settle_order(who, &o);
}

bool calm(int e)
{
	for (int i = 0; i < 2; i++, e ^= 1) {
		int who;

		if (!end_open(e) || !(end_of(e)->news || (far_who >= 0 && !i)))
			continue;
		who = end_user(e);
		if (who < 0)
			return false;
		settle(e, who);
	}
	return true;
}

static void both_news(int e)
{
	end_of(e)->news = end_of(e ^ 1)->news = true;
}

static void set_reset(int e)
{
	conn_of(e)->reset = true;
	both_news(e);
}

static void set_fin(int e)
{
	out_of(e)->fin = true;
	both_news(e);
}

/* ---- operations that change what is known ---- */

bool watched(int e, uint32_t with)
{
	for (int who = 0; who < WHO_MAX; who++)
		if (end_of(e)->watch[who] & with)
			return true;
	return false;
}

/* A DEL for each epoll instance; false if a process can't be asked now. */
bool unwatch(int e, uint32_t with)
{
	struct end *end = end_of(e);
	struct answer a;

	for (int who = 0; who < WHO_MAX; who++)
		if (end->watch[who] & with && !proc_usable(who))
			return false;
	for (int who = 0; who < WHO_MAX; who++)
		if (end->watch[who] & with) {
			struct order o = {.op = DO_EPOLL_CTL,
					  .end = (uint8_t)e,
					  .copy = end->watch_copy[who],
					  .arg = EPOLL_CTL_DEL};

			perform(who, &o, &a);
			end->watch[who] = 0;
		}
	return true;
}

static bool is_closed(const struct conn *c)
{
	return c->reset ||
	       (c->stream[0].fin && c->stream[1].fin && c->stream[0].state == FLOWS && c->stream[1].state == FLOWS);
}

static bool would_reset(int e, bool linger)
{
	return !is_closed(conn_of(e)) && (linger || unread(e) || in_of(e)->state != FLOWS);
}

static int holders(int e)
{
	int n = 0;

	for (int who = 0; who < WHO_MAX; who++)
		n += end_of(e)->copies[who] != 0;
	return n;
}

/*
 * What the library leaves behind when a connection is reset: bytes that have arrived stay with the process that had the
 * connection last, so another one, a child or a new image, does not get them. Of several processes each may be told
 * the error. And of an end that is shut down both ways nobody sees when the library has heard of the reset.
 */
bool may_be_reset(int e)
{
	for (int i = 0; i < 2 && far_who >= 0; i++, e ^= 1)
		if ((end_of(e)->moved && unread(e)) || holders(e) > 1 || (end_of(e)->shut_rd && out_of(e)->fin))
			return false;
	return true;
}

/* The same, of one that has been reset; and see may_shutdown(). */
bool may_be_shared(int e)
{
	return far_who < 0 || !(conn_of(e)->reset || end_of(e)->shut_rd);
}

bool may_be_inherited(int who)
{
	for (int e = 0; e < ENDS; e++)
		if (conn_of(e)->used && end_of(e)->copies[who] && !may_be_shared(e))
			return false;
	return true;
}

/*
 * The peer of an end that is shut down both ways: Linux resets a connection on which more arrives then. On the fast
 * path nobody knows that it is shut down for reading, and the bytes are taken. And an end that is shut down for reading
 * itself does not tell when the peer's FIN has come, before which the reset would be another one.
 */
bool may_be_refused(int e)
{
	return far_who < 0 || (!end_open(e ^ 1) && !end_of(e)->shut_rd);
}

/* Its last descriptor may be closed. */
bool may_close(int e, bool linger)
{
	return calm(e) && (!would_reset(e, linger) || may_be_reset(e)) &&
	       (!would_reset(e, linger) || out_of(e)->state == FLOWS);
}

/* The last descriptor is closed. */
static void closed(int e, bool linger)
{
	bool reset = would_reset(e, linger);
	struct stream *in = in_of(e);

	if (reset)
		set_reset(e);
	else if (!conn_of(e)->reset)
		set_fin(e);
	if (reset && in->state != FLOWS)
		stream_new(in); /* nobody will read it */
	if (!end_open(e ^ 1))
		conn_of(e)->used = false;
}

void close_end(int e, int who, int how)
{
	struct end *end = end_of(e);
	struct order o = order_on(e, who, DO_CLOSE);
	struct answer a;

	if (end->watch[who] && end->watch_copy[who] == o.copy &&
	    !(end_sole(e, who) && end->copies[who] == 1 << o.copy)) {
		struct order del = {.op = DO_EPOLL_CTL, .end = (uint8_t)e, .copy = o.copy, .arg = EPOLL_CTL_DEL};

		perform(who, &del, &a);
		end->watch[who] = 0;
	}
	o.how = (uint8_t)how;
	perform(who, &o, &a);
	end->copies[who] &= (uint8_t) ~(1 << o.copy);
	if (end_open(e))
		return;
	end->watch[who] = 0;
	closed(e, how == CLOSE_LINGER);
}

bool may_end(int who)
{
	for (int e = 0; e < ENDS; e++)
		if (conn_of(e)->used && end_sole(e, who) && !may_close(e, false))
			return false;
	return true;
}

/* By SIGKILL or by exit(), with all that it has open. */
void end_process(int who, bool by_signal)
{
	struct order o = {.op = DO_EXIT};

	show(who, -1, by_signal ? "SIGKILL" : "exit");
	if (by_signal) {
		proc_kill(who);
	} else {
		post(who, &o, -1);
		proc_gone(who);
	}
	for (int e = 0; e < ENDS; e++) {
		bool had = conn_of(e)->used && end_of(e)->copies[who];

		end_of(e)->copies[who] = 0;
		end_of(e)->watch[who] = 0;
		if (had && !end_open(e))
			closed(e, false);
	}
}

/* Of several processes only the one that shuts an end down for reading knows of it once Linux's socket is made anew. */
bool may_shutdown(int e, int how)
{
	bool rd = end_of(e)->shut_rd || how != SHUT_WR;

	if (far_who >= 0 && how != SHUT_WR && holders(e) > 1)
		return false;
	return calm(e) && !(rd && in_of(e)->state != FLOWS) && (how == SHUT_RD || unwatch(e, EPOLLET));
}

void do_shutdown(int e, int who, int how)
{
	struct order o = order_on(e, who, DO_SHUTDOWN);
	struct answer a;

	o.arg = how;
	perform(who, &o, &a);
	if (how != SHUT_WR)
		end_of(e)->shut_rd = true;
	if (how != SHUT_RD && !conn_of(e)->reset)
		set_fin(e);
}

bool would_be_refused(int e)
{
	return !end_open(e ^ 1) || (end_of(e ^ 1)->shut_rd && in_of(e)->fin);
}

/* A call that sends; it may be the one that meets a closed end, and is answered by a reset. */
void do_send(int e, int who, struct order *o)
{
	struct stream *out = out_of(e);
	bool refused = would_be_refused(e);
	struct answer a;

	o->key = out->key;
	o->pos = out->sent;
	perform(who, o, &a);
	end_of(e ^ 1)->news |= o->some;
	end_of(e)->news |= far_who >= 0; /* acknowledgements, which make room */
	if (a.r <= 0)
		return;
	if (refused) {
		set_reset(e);
		return;
	}
	out->sent += (uint64_t)a.r;
	end_of(e ^ 1)->news = true;
}

/* recvmmsg() says a socket's error before it looks for bytes. */
uint8_t how_to_take(int e)
{
	uint8_t how = (uint8_t)rnd(RECV_HOWS);

	return how == RECV_RECVMMSG && conn_of(e)->reset ? RECV_RECV : how;
}

/* Reads all there is, also what the writer's side still keeps. */
void drain(int e, int who)
{
	struct stream *in = in_of(e);
	struct order o = order_on(e, who, DO_TAKE);
	struct answer a;

	o.how = how_to_take(e);
	o.arg = (int)rnd_length(LONGEST);
	if (in->state != FLOWS && o.arg < 10000)
		o.arg = 10000;
	o.n = unread(e);
	o.key = in->key;
	o.pos = in->read;
	o.some = in->state != FLOWS;
	perform(who, &o, &a);
	in->read = in->sent;
	if (in->state != FLOWS)
		stream_new(in);
	both_news(e);
}
