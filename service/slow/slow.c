/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The slow path put together: opening, one turn of the loop, stopping, and the views for reports. */
#include "service/slow/slow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/base/clock.h"
#include "service/slow/internal.h"

#define TURN_ROUNDS 8

/* After all completions of a turn: what came up, what waits, and then, if nothing is left, sleep. */
static void slow_turn(void *ctx)
{
	struct slow *s = ctx;

	s->now_ns = loop_now_ns(s->env.loop);
	for (int round = 0; round < TURN_ROUNDS; round++) {
		bool more = client_continue(s);

		fast_slow_awake(s->env.fast);
		down_retry(s);
		up_drain(s);
		congest_active(s);
		if (s->stopping)
			leave_continue(s);
		if (s->probe_all)
			verdict_ask_all(s);
		if (more || s->probe_all)
			break; /* the TAP's answers come first */
		if (fast_slow_sleeps(s->env.fast))
			return;
	}
	/* more work than one turn may take: come back at once, after the other descriptors had theirs */
	if (write(fast_up_fd(s->env.fast), &(uint64_t){1}, sizeof(uint64_t)) < 0)
		return;
}

static void slow_up_readable(void *ctx, int revents)
{
	struct slow *s = ctx;
	uint64_t n;

	(void)revents;
	if (read(fast_up_fd(s->env.fast), &n, sizeof n) < 0)
		return; /* somebody was faster; the turn looks anyway */
}

int slow_open(const struct slow_env *env, slow_admin_fn *admin, void *ctx, struct slow **out, char *why,
	      unsigned why_size)
{
	struct slow *s = calloc(1, sizeof *s);
	int rc;

	if (!s)
		return -ENOMEM;
	*out = s;
	s->env = *env;
	s->cfg = env->config;
	s->admin = admin;
	s->admin_ctx = ctx;
	s->listen_fd = s->listen_watch = s->up_watch = -1;
	s->settle_timer = s->adopt_timer = s->verdict_timer = s->heartbeat_timer = s->cc_timer = s->sweep_timer = -1;
	s->attach_watch = s->detach_timer = -1;
	s->now_ns = clock_now_ns();
	rc = waker_open(&s->waker);
	if (rc) {
		snprintf(why, why_size, "cannot make a context of asynchronous reads (fs.aio-max-nr): %s",
			 strerror(-rc));
		return rc;
	}
	rc = conn_table_open(s);
	if (!rc) {
		s->up_watch = loop_watch(env->loop, fast_up_fd(env->fast), slow_up_readable, s);
		rc = s->up_watch < 0 ? s->up_watch : demand_open(s);
	}
	if (rc) {
		snprintf(why, why_size, "cannot make room for %u flows: %s", s->cfg->max_flows, strerror(-rc));
		return rc;
	}
	rc = client_listen(s, why, why_size);
	if (!rc)
		loop_each_turn(env->loop, slow_turn, s);
	return rc;
}

void slow_set_tap(struct slow *s, struct tap *tap)
{
	s->tap = tap;
}

void slow_set_watch(struct slow *s, struct watch *watch)
{
	s->watch = watch;
}

void slow_stop(struct slow *s)
{
	uint32_t next;

	s->stopping = true;
	s->now_ns = clock_now_ns();
	for (uint32_t i = s->list_head; i != SLOW_NONE; i = next) {
		struct conn *c = &s->conns[i];

		next = c->list_next;
		if (c->state == CONN_ADOPTING)
			adopt_cancel(s, c, IPC_REASON_STOPPING);
	}
	leave_continue(s);
}

uint32_t slow_stopping(struct slow *s)
{
	return s->stopping ? leave_continue(s) : 0;
}

uint32_t slow_abandon(struct slow *s)
{
	uint32_t n = 0, next;

	for (uint32_t i = s->list_head; i != SLOW_NONE; i = next) {
		struct conn *c = &s->conns[i];

		next = c->list_next;
		if (c->state != CONN_FAST || c->failed)
			continue;
		conn_abort(s, c, ECONNABORTED);
		n++;
	}
	return n;
}

uint64_t slow_longest_pause_ns(const struct slow *s)
{
	return s->pause_max_ns;
}

static uint32_t slow_release(struct slow *s, bool all, pid_t pid, uint32_t id)
{
	uint32_t n = 0, next;

	s->now_ns = clock_now_ns();
	for (uint32_t i = s->list_head; i != SLOW_NONE; i = next) {
		struct conn *c = &s->conns[i];

		next = c->list_next;
		if (c->state != CONN_FAST || c->failed || !c->app)
			continue;
		if (all || (pid ? c->app->pid == pid || conn_tx_app(c)->pid == pid : c->id == id))
			n += leave_begin(s, c, -1, IPC_REASON_RELEASED) == 0;
	}
	return n;
}

uint32_t slow_release_all(struct slow *s)
{
	return slow_release(s, true, 0, 0);
}

uint32_t slow_release_pid(struct slow *s, pid_t pid)
{
	return slow_release(s, false, pid, 0);
}

uint32_t slow_release_flow(struct slow *s, uint32_t id)
{
	return slow_release(s, false, 0, id);
}

void slow_close(struct slow *s)
{
	if (!s)
		return;
	s->stopping = true;
	client_close_all(s);
	if (s->up_watch >= 0)
		loop_unwatch(s->env.loop, s->up_watch);
	demand_close(s);
	down_close(s);
	pairs_close(s);
	app_close_all(s);
	conn_table_close(s);
	waker_close(&s->waker);
	free(s);
}

/* ---- views ---- */

void slow_totals(const struct slow *s, struct slow_totals *out)
{
	*out = (struct slow_totals){
		.fast = s->count[CONN_FAST],
		.adopting = s->count[CONN_ADOPTING],
		.closing = s->count[CONN_REMOVING] + s->count[CONN_LEAVING],
		.time_wait = s->count[CONN_TIME_WAIT],
		.muted = s->muted,
		.apps = s->napps,
	};
	for (uint32_t i = 0; i < SLOW_LISTENERS; i++)
		out->listeners += s->listeners[i].app != NULL;
	for (uint32_t i = s->list_head; i != SLOW_NONE; i = s->conns[i].list_next)
		if (s->conns[i].state == CONN_FAST && (s->conns[i].local_fin || s->conns[i].failed)) {
			out->fast--;
			out->closing++;
		}
}

static void slow_flow_live(struct slow *s, struct conn *c, slow_flow_fn *cb, void *ctx)
{
	struct slow_flow_info f = {
		.id = c->id,
		.key = c->key,
		.fd = c->app_fd,
		.state = c->state,
		.closing = c->local_fin || c->failed,
		.muted = c->muted,
		.local = c->local,
		.verdict = c->verdict,
		.verdict_age_ms = c->verdict_ns ? (s->now_ns - c->verdict_ns) / NS_PER_MS : 0,
		.congestion = c->cc ? c->cc->name : "",
		.reason = "",
		.rate_bps = c->cc_state.lim.rate_bps,
		.stats = fast_stats(s->env.fast, c->id),
	};

	if (c->app) {
		f.pid = c->app->pid;
		memcpy(f.command, c->app->command, sizeof f.command);
	}
	cb(ctx, &f);
}

/* Refused, or given back: with Linux. */
static bool slow_is_left(uint32_t state)
{
	return state == IPC_REFUSED || state == IPC_RETURNED;
}

void slow_each_flow(struct slow *s, slow_flow_fn *cb, void *ctx)
{
	s->now_ns = clock_now_ns();
	for (uint32_t i = s->list_head; i != SLOW_NONE; i = s->conns[i].list_next)
		slow_flow_live(s, &s->conns[i], cb, ctx);
	for (uint32_t i = 0; i < SLOW_LEFT; i++) {
		const struct left *l = &s->left[i];
		struct slow_flow_info f = {.id = SLOW_NONE, .left_with_linux = true, .key = l->key, .congestion = ""};
		struct ipc_slot *sl;
		uint32_t fd;

		if (!l->app)
			continue;
		sl = &l->app->shm->slot[l->slot];
		fd = atomic_load_explicit(&sl->fd_plus1, memory_order_relaxed);
		if (!fd || !slow_is_left(IPC_STATE(atomic_load_explicit(&sl->status, memory_order_relaxed))))
			continue;
		f.fd = (int)(fd - 1);
		f.pid = l->app->pid;
		memcpy(f.command, l->app->command, sizeof f.command);
		f.reason = ipc_reason_name(atomic_load_explicit(&sl->reason, memory_order_relaxed));
		cb(ctx, &f);
	}
}

void slow_each_listener(struct slow *s, slow_listener_fn *cb, void *ctx)
{
	for (uint32_t i = 0; i < SLOW_LISTENERS; i++)
		if (s->listeners[i].app)
			cb(ctx, &s->listeners[i].info);
}

const struct counters *slow_counters(const struct slow *s)
{
	return &s->counters;
}
