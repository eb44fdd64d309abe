/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A fast thread: its turn, its sleep, its memory. A turn does, each bounded: commands, frames
 * received, records of applications, timers, transmission, wake-ups. Time is read once per
 * turn, here.
 *
 * Sleep: when there was nothing to do for spin_us, the armed flag is set, then a full fence,
 * then one more look at everything; who brings news stores it, fences, and writes an eventfd
 * if the flag is set. A wake-up can't be lost, and a busy thread is never written to.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "service/base/clock.h"
#include "service/fast/thread.h"

static int thread_sets(struct fast_thread *t, uint32_t max_flows)
{
	uint32_t words = flowset_words(max_flows);

	t->set_memory = calloc(4ul * words, sizeof(uint64_t));
	if (!t->set_memory)
		return -ENOMEM;
	flowset_init(&t->owned, t->set_memory, max_flows);
	flowset_init(&t->ready, t->set_memory + words, max_flows);
	flowset_init(&t->up_wait, t->set_memory + 2ul * words, max_flows);
	flowset_init(&t->keep, t->set_memory + 3ul * words, max_flows);
	return 0;
}

/* Which flow a slot is: reserved for all applications, touched only where used. */
static int thread_slots(struct fast_thread *t)
{
	size_t size = (size_t)FAST_APPS * IPC_SLOTS * sizeof(uint32_t);
	void *m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (m == MAP_FAILED)
		return -ENOMEM;
	t->slot_memory = m;
	for (uint32_t i = 0; i < FAST_APPS; i++)
		t->apps[i].slot_flow = t->slot_memory + (size_t)i * IPC_SLOTS;
	return 0;
}

static int thread_fds(struct fast_thread *t)
{
	struct epoll_event own = {.events = EPOLLIN | EPOLLET, .data.u32 = 0};
	struct epoll_event port = {.events = EPOLLIN, .data.u32 = 1};

	t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (t->wake_fd < 0 || t->epoll_fd < 0)
		return -errno;
	if (epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, t->wake_fd, &own))
		return -errno;
	if (port_fd(t->port) >= 0 && epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, port_fd(t->port), &port))
		return -errno;
	return waker_open(&t->waker);
}

int thread_open(struct fast_thread *t, struct fast *f, uint32_t index, struct port *port)
{
	int err;

	memset((void *)t, 0, sizeof *t);
	t->wake_fd = t->epoll_fd = t->waker.null_fd = -1;
	t->fast = f;
	t->index = index;
	t->cfg = &f->cfg;
	t->port = port;
	t->page = f->page;
	t->active = &f->active;
	t->flows = f->shared;
	t->stats = (struct flow_stats *)(t->flows + f->cfg.max_flows);
	t->limits = (struct flow_limits *)(t->stats + f->cfg.max_flows);
	if ((err = thread_sets(t, f->cfg.max_flows)) || (err = thread_slots(t)) ||
	    (err = flow_table_open(&t->table, f->cfg.max_flows, &f->cfg.hash)) ||
	    (err = wheel_open(&t->wheel, f->cfg.max_flows, 0)) || (err = recring_open(&t->down, FAST_RING_BYTES)) ||
	    (err = recring_open(&t->up, FAST_RING_BYTES)) || (err = thread_fds(t)))
		thread_close(t);
	return err;
}

void thread_close(struct fast_thread *t)
{
	if (t->wake_fd >= 0)
		close(t->wake_fd);
	if (t->epoll_fd >= 0)
		close(t->epoll_fd);
	waker_close(&t->waker);
	if (t->up.data)
		recring_close(&t->up);
	if (t->down.data)
		recring_close(&t->down);
	wheel_close(&t->wheel);
	flow_table_close(&t->table);
	if (t->slot_memory)
		munmap(t->slot_memory, (size_t)FAST_APPS * IPC_SLOTS * sizeof(uint32_t));
	free(t->set_memory);
	t->wake_fd = t->epoll_fd = -1;
	t->set_memory = NULL;
	t->slot_memory = NULL;
}

void thread_stats(struct fast_thread *t, const struct flow *f)
{
	struct flow_stats *st = &t->stats[f->id];

	STATS_SET(st->in_flight, flow_in_flight(f));
	STATS_SET(st->cwnd_bytes, f->cwnd);
	STATS_SET(st->snd_wnd, f->snd_wnd);
	STATS_SET(st->rcv_wnd, (uint32_t)(f->rcv_edge - f->rcv_end));
	STATS_SET(st->unsent, (uint32_t)(f->snd_end - MIN(f->snd_max, f->snd_end)));
	STATS_SET(st->snd_una, flow_snd_una(f));
	STATS_SET(st->snd_nxt, flow_snd_nxt(f));
	STATS_SET(st->rcv_nxt, flow_rcv_nxt(f));
	app_counts(t, f);
}

static bool thread_receive(struct fast_thread *t)
{
	struct frame frames[FAST_RX_BATCH];
	uint32_t n = port_rx(t->port, frames, FAST_RX_BATCH);

	if (!n)
		return false;
	thread_count(t, CNT_RX_FRAMES, n);
	input_frames(t, frames, n);
	port_rx_release(t->port, n);
	return true;
}

/*
 * Round robin over the flows that may have something to send, a burst each. While frames wait to be
 * received, only a little: a turn that sends a thousand segments and receives 64 makes the
 * receive ring overflow, and with many connections the peers' data hardly gets through.
 */
static bool thread_transmit(struct fast_thread *t)
{
	uint32_t i = t->ready_cursor, n = 0, room = port_tx_room(t->port), now_room;
	bool wrapped = i == 0, work = false;

	while (n < FAST_READY_BATCH) {
		i = flowset_next(&t->ready, i);
		if (i == FLOWSET_NONE) {
			if (wrapped)
				break;
			wrapped = true;
			i = 0;
			continue;
		}
		if (wrapped && t->ready_cursor && i >= t->ready_cursor)
			break; /* all have had their turn */
		work = true;
		n++;
		if (!tx_run(t, &t->flows[i]))
			flowset_del(&t->ready, i);
		timer_arm(t, &t->flows[i]);
		i++;
		now_room = port_tx_room(t->port);
		if (!now_room || (now_room + FAST_TX_FEW <= room && port_rx_ready(t->port)))
			break;
	}
	t->ready_cursor = i == FLOWSET_NONE || i >= t->cfg->max_flows ? 0 : i;
	return work;
}

bool thread_turn(struct fast_thread *t, uint64_t now_ns)
{
	bool work;

	t->now_ns = now_ns;
	work = command_run(t);
	work |= thread_receive(t);
	work |= app_dirty_run(t);
	work |= timer_run(t);
	work |= thread_transmit(t);
	if (work || port_tx_pending(t->port))
		port_flush(t->port);
	up_retry(t);
	app_wake(t);
	up_wake(t, false);
	/* relaxed: for the watchdog */
	atomic_store_explicit(&t->last_turn_ns, now_ns, memory_order_relaxed);
	return work;
}

uint64_t thread_next_ns(const struct fast_thread *t)
{
	uint64_t tick = wheel_next(&t->wheel), ns = tick == WHEEL_NEVER ? WHEEL_NEVER : tick * NS_PER_MS;

	return t->keep_due_ns ? MIN(ns, t->keep_due_ns) : ns;
}

bool thread_has_work(struct fast_thread *t)
{
	if (port_rx_ready(t->port) || !recring_empty(&t->down) || (flowset_any(&t->ready) && port_tx_room(t->port)))
		return true;
	for (uint32_t k = 0; k < t->napps; k++) {
		const struct app_view *a = &t->apps[t->app_list[k]];

		if (!a->bad && bell_any(&a->a.shm->dirty[t->index]))
			return true;
	}
	return atomic_load_explicit(&t->fast->stop, memory_order_acquire);
}

/* Something waits for room that others make without telling us: the kernel or the slow path. */
static bool thread_is_blocked(struct fast_thread *t)
{
	return port_tx_pending(t->port) || flowset_any(&t->ready) || flowset_any(&t->up_wait) || t->apps_up_wait;
}

static void thread_sleep(struct fast_thread *t)
{
	_Atomic uint32_t *armed = &t->page->thread[t->index].armed;
	uint64_t next = thread_next_ns(t), now, wait = NS_PER_S;
	struct epoll_event ev[8];
	struct timespec ts;

	up_wake(t, true);
	/* pairs with the fence between news and the look at `armed` in bell_ring() and fast_kick() */
	atomic_store_explicit(armed, 1, memory_order_seq_cst);
	atomic_thread_fence(memory_order_seq_cst);
	if (!thread_has_work(t)) {
		now = clock_now_ns();
		if (next != WHEEL_NEVER)
			wait = MIN(next > now ? next - now : 0, NS_PER_S);
		if (thread_is_blocked(t))
			wait = MIN(wait, NS_PER_MS);
		ts = (struct timespec){(time_t)(wait / NS_PER_S), (long)(wait % NS_PER_S)};
		thread_count(t, CNT_FAST_SLEEP, 1);
		/* Eventfds are edge-triggered and never drained: each write is an edge. */
		epoll_pwait2(t->epoll_fd, ev, ARRAY_SIZE(ev), &ts, NULL);
	}
	atomic_store_explicit(armed, 0, memory_order_release);
}

void *thread_main(void *arg)
{
	struct fast_thread *t = arg;
	uint64_t idle_since = 0, now;

	/* pairs with the release store in fast_stop() */
	while (!atomic_load_explicit(&t->fast->stop, memory_order_acquire)) {
		now = clock_now_ns();
		if (thread_turn(t, now)) {
			idle_since = 0;
			continue;
		}
		if (!idle_since)
			idle_since = now;
		if (now - idle_since < t->cfg->spin_us * NS_PER_US) {
			sched_yield();
			continue;
		}
		thread_sleep(t);
		idle_since = 0;
	}
	return NULL;
}
