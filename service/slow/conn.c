/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table of connections and the life of one, from ADOPTING to its end.
 *
 *   FREE -> ADOPTING -> FAST -> REMOVING -> FREE            (passive close, reset)
 *                 |      | ^          `--> TIME_WAIT -> FREE (active close)
 *                 |      v |
 *                 |    LEAVING -> FREE                       (returned; or back to FAST, moved)
 *                 `--> FREE                                  (rolled back)
 *
 * The close has four facts, each learnt from somebody else: Linux closed the sending side
 * (its FIN on the TAP), nobody holds the descriptor any more (sock_diag, or the
 * application's own word once the kernel socket is dead), the peer's FIN came, and the peer
 * acknowledged ours (both from the fast path). conn_progress() looks at all four and is
 * the only place that decides that a connection ends.
 */
#include "service/slow/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/base/addr.h"
#include "service/base/clock.h"
#include "service/base/closer.h"
#include "service/base/log.h"

int conn_table_open(struct slow *s)
{
	uint32_t buckets = 1;

	s->max_conns = s->cfg->max_flows;
	while (buckets < s->max_conns * 2)
		buckets *= 2;
	s->bucket_mask = buckets - 1;
	s->conns = calloc(s->max_conns, sizeof *s->conns);
	s->buckets = malloc(buckets * sizeof *s->buckets);
	s->pending = calloc(s->max_conns, sizeof *s->pending);
	s->active = calloc(s->max_conns, sizeof *s->active);
	if (!s->conns || !s->buckets || !s->pending || !s->active)
		return -ENOMEM;
	memset(s->buckets, 0xff, buckets * sizeof *s->buckets);
	for (uint32_t i = 0; i < s->max_conns; i++) {
		s->conns[i].id = i;
		s->conns[i].fd = -1;
		s->conns[i].list_next = i + 1 < s->max_conns ? i + 1 : SLOW_NONE;
	}
	s->free_head = 0;
	s->list_head = SLOW_NONE;
	return hash_key_random(&s->hash);
}

static void conn_release_held(struct conn *c)
{
	struct held_frame *h;

	while ((h = c->held)) {
		c->held = h->next;
		free(h);
	}
	c->held_tail = &c->held;
	c->held_count = 0;
}

void conn_table_close(struct slow *s)
{
	for (uint32_t i = 0; s->conns && i < s->max_conns; i++) {
		if (s->conns[i].state == CONN_FREE)
			continue;
		conn_release_held(&s->conns[i]);
		free(s->conns[i].out);
		closer_close(s->conns[i].fd);
	}
	free(s->conns);
	free(s->buckets);
	free(s->pending);
	free(s->active);
}

static uint32_t *conn_bucket(struct slow *s, const struct flow_key *key)
{
	return &s->buckets[hash_bytes(&s->hash, key, sizeof *key) & s->bucket_mask];
}

struct conn *conn_find(struct slow *s, const struct flow_key *key)
{
	for (uint32_t i = *conn_bucket(s, key); i != SLOW_NONE; i = s->conns[i].hash_next)
		if (flow_key_equal(&s->conns[i].key, key))
			return &s->conns[i];
	return NULL;
}

struct conn *conn_find_cookie(struct slow *s, uint64_t cookie)
{
	for (uint32_t i = s->list_head; i != SLOW_NONE; i = s->conns[i].list_next)
		if (s->conns[i].cookie == cookie && s->conns[i].state != CONN_TIME_WAIT)
			return &s->conns[i];
	return NULL;
}

static uint32_t conn_region(const struct ring *r)
{
	return r ? ring_id(r) : 0;
}

void conn_fill_slot(const struct conn *c, struct app *a, uint32_t slot)
{
	struct ipc_slot *sl = &a->shm->slot[slot];
	bool rx = c->app == a && c->slot == slot, tx = conn_tx_app(c) == a && conn_tx_slot(c) == slot;

	/* a half that it does not have is never used: any piece of its memory will do */
	sl->rx_off = rx ? c->rx_off : c->tx_off;
	sl->tx_off = tx ? c->tx_off : c->rx_off;
	sl->rx_size = rx ? c->rx_size : c->tx_size;
	sl->tx_size = tx ? c->tx_size : c->rx_size;
	sl->rx_region = conn_region(rx ? c->rx_ring : c->tx_ring);
	sl->tx_region = conn_region(tx ? c->tx_ring : c->rx_ring);
	sl->flow_id = c->id;
	sl->thread = c->thread;
	sl->local = c->local;
	sl->base_sent = c->sock.bytes_sent - c->sock.counts.bytes_retrans - (c->sock.snd_nxt - c->sock.snd_una);
	sl->base_acked = c->sock.bytes_acked;
	sl->base_received = c->sock.bytes_received - c->sock.rcv_queued;
	atomic_store_explicit(&sl->reason, IPC_REASON_NONE, memory_order_relaxed);
}

struct conn *conn_new(struct slow *s, const struct flow_key *key)
{
	uint32_t id = s->free_head, *bucket = conn_bucket(s, key);
	struct conn *c;

	if (id == SLOW_NONE)
		return NULL;
	c = &s->conns[id];
	s->free_head = c->list_next;
	memset(c, 0, sizeof *c);
	c->id = id;
	c->key = *key;
	c->fd = c->app_fd = -1;
	c->peer = SLOW_NONE;
	c->held_tail = &c->held;
	c->hash_next = *bucket;
	*bucket = id;
	c->list_prev = SLOW_NONE;
	c->list_next = s->list_head;
	if (s->list_head != SLOW_NONE)
		s->conns[s->list_head].list_prev = id;
	s->list_head = id;
	conn_set_state(s, c, CONN_ADOPTING);
	return c;
}

void conn_set_state(struct slow *s, struct conn *c, enum conn_state state)
{
	static const char *const names[] = {"free", "adopting", "fast", "removing", "leaving", "time-wait"};

	if (c->state != CONN_FREE)
		s->count[c->state]--;
	if (state != CONN_FREE)
		s->count[state]++;
	if (log_enabled(LOG_LEVEL_DEBUG)) {
		char text[FLOW_KEY_TEXT_MAX];

		log_debug("flow %u %s: %s to %s", c->id, flow_key_text(&c->key, text, sizeof text), names[c->state],
			  names[state]);
	}
	c->state = state;
	if (s->now_ns)
		c->closed_ns = s->now_ns;
}

void conn_release_slot(struct slow *s, struct app *a, uint32_t slot, enum ipc_state final, uint32_t reason)
{
	a->slot_conn[slot] = SLOW_NONE;
	a->conns--;
	app_slot_finish(s, a, slot, final, reason);
	app_release(s, a);
}

/* Threads of the applications may still be copying there. */
static void conn_park(struct slow *s, struct conn *c)
{
	if (!c->rx_ring)
		app_park(c->app, c->slot, true, c->rx_off, c->rx_size);
	if (!c->tx_ring)
		app_park(conn_tx_app(c), conn_tx_slot(c), false, c->tx_off, c->tx_size);
	else
		app_park_ring(s, conn_tx_app(c), conn_tx_slot(c), ring_hold(c->tx_ring));
	c->rx_size = c->tx_size = 0;
}

void conn_release_buffers(struct slow *s, struct conn *c)
{
	if (c->rx_size && !c->rx_ring)
		app_buffers_put(c->app, c->rx_size, c->rx_off);
	if (c->tx_size && !c->tx_ring)
		app_buffers_put(conn_tx_app(c), c->tx_size, c->tx_off);
	ring_put(s, c->rx_ring);
	ring_put(s, c->tx_ring);
	c->rx_ring = c->tx_ring = NULL;
	c->rx_size = c->tx_size = 0;
}

void conn_release_app(struct slow *s, struct conn *c, enum ipc_state final, uint32_t reason, bool park)
{
	struct app *a = c->app, *tx = conn_tx_app(c);
	uint32_t tx_slot = conn_tx_slot(c);

	if (!a)
		return;
	if (park)
		conn_park(s, c);
	conn_release_buffers(s, c);
	c->app = NULL;
	if (c->sender.app)
		conn_release_slot(s, tx, tx_slot, final, reason);
	c->sender.app = NULL;
	conn_release_slot(s, a, c->slot, final, reason);
}

void conn_free(struct slow *s, struct conn *c)
{
	uint32_t *link = conn_bucket(s, &c->key);

	local_unlink(s, c);
	verdict_forget(s, c);
	congest_forget(s, c);
	conn_release_held(c);
	free(c->out);
	closer_close(c->fd);
	c->fd = -1;
	conn_release_app(s, c, IPC_DEAD, IPC_REASON_NONE, false);
	while (*link != c->id)
		link = &s->conns[*link].hash_next;
	*link = c->hash_next;
	if (c->list_prev != SLOW_NONE)
		s->conns[c->list_prev].list_next = c->list_next;
	else
		s->list_head = c->list_next;
	if (c->list_next != SLOW_NONE)
		s->conns[c->list_next].list_prev = c->list_prev;
	conn_set_state(s, c, CONN_FREE);
	c->list_next = s->free_head;
	s->free_head = c->id;
	if (s->list_head == SLOW_NONE)
		demand_empty(s);
}

void conn_command(struct slow *s, struct conn *c, enum fast_cmd cmd, uint32_t error, uint32_t value)
{
	struct cmd_flow m = {.flow_id = c->id, .error = error, .value = value};

	down_send(s, c->thread, cmd, &m, sizeof m);
}

void conn_abort(struct slow *s, struct conn *c, uint32_t error)
{
	if (c->failed)
		return;
	c->failed = true;
	c->closed_ns = s->now_ns;
	conn_command(s, c, CMD_ABORT, error, 0);
	linux_mirror_rst(s, c, 0);
	conn_progress(s, c);
}

void conn_remove(struct slow *s, struct conn *c)
{
	if (c->state != CONN_FAST)
		return;
	verdict_forget(s, c);
	congest_forget(s, c);
	conn_command(s, c, CMD_REMOVE, 0, 0);
	conn_set_state(s, c, CONN_REMOVING);
}

void conn_removed(struct slow *s, struct conn *c, uint32_t rcv_nxt, uint32_t snd_nxt)
{
	bool active_close = !c->failed && c->fin_acked && c->peer_fin && !c->peer_fin_first;

	counter_add(&s->counters, c->failed ? CNT_FLOW_RESET : CNT_FLOW_CLOSED, 1);
	if (c->local) { /* TIME_WAIT is the kernel sockets' */
		conn_free(s, c);
		return;
	}
	if (!active_close || s->stopping) {
		nic_flow_del(s->env.nic, &c->key);
		conn_free(s, c);
		return;
	}
	c->wire_rcv_nxt = rcv_nxt;
	c->wire_snd_nxt = snd_nxt;
	conn_set_state(s, c, CONN_TIME_WAIT);
	conn_release_app(s, c, IPC_DEAD, IPC_REASON_NONE, false);
}

void conn_progress(struct slow *s, struct conn *c)
{
	if (c->state != CONN_FAST || !c->orphan)
		return;
	if (c->failed || (c->fin_acked && c->peer_fin) || (c->local && c->peer == SLOW_NONE))
		conn_remove(s, c);
}

static bool conn_slot_is_let_go(const struct app *a, uint32_t slot)
{
	return a->exited || atomic_load_explicit(&a->shm->slot[slot].fd_plus1, memory_order_relaxed) == 0;
}

bool conn_slots_are_let_go(const struct conn *c)
{
	return conn_slot_is_let_go(c->app, c->slot) &&
	       (!c->sender.app || conn_slot_is_let_go(c->sender.app, c->sender.slot));
}

/*
 * Has the application let go of the descriptor? While the kernel socket lives, sock_diag
 * knows. Once it is dead (both FINs exchanged, or reset) Linux shows nothing, neither of an open
 * descriptor nor at close(), and the library's word, or the end of the process, has to do. A
 * failed connection of an application that has been disconnected is not kept for its word: it
 * could gather them without end.
 */
bool conn_is_let_go(const struct conn *c)
{
	bool kernel_dead = c->failed || (c->fin_acked && c->peer_fin);

	if (!kernel_dead && c->local)
		return local_is_let_go(c, conn_slots_are_let_go(c));
	if (!kernel_dead)
		return sock_is_orphan(&c->key) == 1;
	return conn_slots_are_let_go(c) || (c->failed && c->app->dying && conn_tx_app(c)->dying);
}

static void conn_look_for_orphan(struct slow *s, struct conn *c)
{
	if (!conn_is_let_go(c))
		return;
	c->orphan = true;
	c->closed_ns = s->now_ns;
	if (!c->failed)
		conn_command(s, c, CMD_ORPHAN, 0, 0);
	conn_progress(s, c);
}

void conn_sweep(struct slow *s)
{
	uint32_t next;

	for (uint32_t i = s->list_head; i != SLOW_NONE; i = next) {
		struct conn *c = &s->conns[i];

		next = c->list_next;
		if (c->state == CONN_TIME_WAIT && s->now_ns - c->closed_ns > SLOW_TIME_WAIT_NS) {
			nic_flow_del(s->env.nic, &c->key);
			conn_free(s, c);
			continue;
		}
		if (c->state != CONN_FAST)
			continue;
		if (!c->orphan && (c->local_fin || c->failed || conn_has_exited(c)))
			conn_look_for_orphan(s, c);
		if (c->state == CONN_FAST && c->local) {
			local_sweep(s, c);
			continue; /* as long as the other end is open it may read, and hears of it when it writes */
		}
		if (c->state == CONN_FAST && c->orphan && c->fin_acked && !c->peer_fin &&
		    s->now_ns - c->closed_ns > SLOW_FIN_WAIT2_NS) {
			c->failed = true;
			conn_progress(s, c);
		}
		if (c->state == CONN_FAST && c->peer_fin && !c->peer_fin_seen)
			linux_mirror_fin(s, c);
	}
}
