/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fast path as a whole: memory that flows live in, the threads, and what the slow path
 * calls. Main thread, except where a function says otherwise. Invariant: flow state lies in
 * one memfd and holds no pointers, so that it can outlive this process.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "service/base/clock.h"
#include "service/fast/thread.h"

static_assert(sizeof(struct flow) % CACHELINE == 0 && sizeof(struct flow_stats) % CACHELINE == 0 &&
		      sizeof(struct flow_limits) % CACHELINE == 0,
	      "the three arrays share one mapping");

static int fast_memory(struct fast *f)
{
	f->shared_size = (size_t)f->cfg.max_flows *
			 (sizeof(struct flow) + sizeof(struct flow_stats) + sizeof(struct flow_limits));
	f->shared_fd = memfd_create("tapas-flows", MFD_CLOEXEC);
	if (f->shared_fd < 0 || ftruncate(f->shared_fd, (off_t)f->shared_size))
		return -errno;
	f->shared = mmap(NULL, f->shared_size, PROT_READ | PROT_WRITE, MAP_SHARED, f->shared_fd, 0);
	if (f->shared == MAP_FAILED) {
		f->shared = NULL;
		return -errno;
	}
	f->up_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return f->up_fd < 0 ? -errno : 0;
}

static int fast_threads_open(struct fast *f)
{
	uint32_t queues = nic_get_info(f->nic)->queues;
	int err = 0;

	if (!queues || queues > IPC_THREADS)
		return -EINVAL;
	for (uint32_t i = 0; i < queues && !err; i++) {
		struct fast_thread *t = aligned_alloc(CACHELINE, (sizeof *t + CACHELINE - 1) / CACHELINE * CACHELINE);

		if (!t)
			return -ENOMEM;
		err = thread_open(t, f, i, nic_port(f->nic, i));
		if (err)
			free(t);
		else
			f->thread[f->threads++] = t;
	}
	return err;
}

int fast_open(const struct fast_config *cfg, struct nic *nic, struct ipc_page *page, struct fast **out)
{
	struct fast *f;
	int err;

	if (!cfg->max_flows || cfg->max_flows > BELL_MAX)
		return -EINVAL;
	f = aligned_alloc(CACHELINE, (sizeof *f + CACHELINE - 1) / CACHELINE * CACHELINE);
	if (!f)
		return -ENOMEM;
	memset((void *)f, 0, sizeof *f);
	f->cfg = *cfg;
	f->nic = nic;
	f->page = page;
	f->shared_fd = f->up_fd = -1;
	if ((err = fast_memory(f)) || (err = fast_threads_open(f))) {
		fast_close(f);
		return err;
	}
	*out = f;
	return 0;
}

int fast_start(struct fast *f)
{
	sigset_t all, old;
	int err = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (uint32_t i = 0; i < f->threads && !err; i++) {
		struct fast_thread *t = f->thread[i];
		char name[16];

		atomic_store_explicit(&t->last_turn_ns, clock_now_ns(), memory_order_relaxed);
		err = -pthread_create(&t->pthread, NULL, thread_main, t);
		t->started = !err;
		snprintf(name, sizeof name, "tapas-fast%u", i % IPC_THREADS);
		if (!err)
			pthread_setname_np(t->pthread, name);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		fast_stop(f);
	return err;
}

void fast_stop(struct fast *f)
{
	uint64_t one = 1;

	/* pairs with the acquire load in thread_main() */
	atomic_store_explicit(&f->stop, 1, memory_order_release);
	for (uint32_t i = 0; i < f->threads; i++) {
		if (!f->thread[i]->started)
			continue;
		(void)!write(f->thread[i]->wake_fd, &one, sizeof one);
		pthread_join(f->thread[i]->pthread, NULL);
		f->thread[i]->started = false;
	}
}

void fast_close(struct fast *f)
{
	if (!f)
		return;
	for (uint32_t i = 0; i < f->threads; i++) {
		thread_close(f->thread[i]);
		free(f->thread[i]);
	}
	if (f->shared)
		munmap(f->shared, f->shared_size);
	if (f->shared_fd >= 0)
		close(f->shared_fd);
	if (f->up_fd >= 0)
		close(f->up_fd);
	free(f);
}

uint32_t fast_threads(const struct fast *f)
{
	return f->threads;
}
struct recring *fast_down(struct fast *f, uint32_t thread)
{
	return &f->thread[thread]->down;
}
struct recring *fast_up(struct fast *f, uint32_t thread)
{
	return &f->thread[thread]->up;
}
int fast_up_fd(const struct fast *f)
{
	return f->up_fd;
}
struct bell *fast_active(struct fast *f)
{
	return &f->active;
}

void fast_kick(struct fast *f, uint32_t thread)
{
	uint64_t one = 1;

	/* pairs with the fence in thread_sleep(): the command was committed before */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&f->page->thread[thread].armed, memory_order_relaxed))
		(void)!write(f->thread[thread]->wake_fd, &one, sizeof one);
}

bool fast_slow_sleeps(struct fast *f)
{
	bool work;

	atomic_store_explicit(&f->slow_armed, 1, memory_order_relaxed);
	/* pairs with the fence in up_wake() */
	atomic_thread_fence(memory_order_seq_cst);
	work = bell_any(&f->active);
	for (uint32_t i = 0; i < f->threads && !work; i++)
		work = !recring_empty(&f->thread[i]->up);
	if (work)
		fast_slow_awake(f);
	return !work;
}

void fast_slow_awake(struct fast *f)
{
	/* relaxed: a fast thread that still sees it set writes the eventfd once for nothing */
	atomic_store_explicit(&f->slow_armed, 0, memory_order_relaxed);
}

struct flow_stats *fast_stats(struct fast *f, uint32_t flow_id)
{
	return (struct flow_stats *)((struct flow *)f->shared + f->cfg.max_flows) + flow_id;
}

struct flow_limits *fast_limits(struct fast *f, uint32_t flow_id)
{
	return (struct flow_limits *)(fast_stats(f, 0) + f->cfg.max_flows) + flow_id;
}

const struct counters *fast_counters(const struct fast *f, uint32_t thread)
{
	return &f->thread[thread]->counters;
}

uint64_t fast_last_turn_ns(const struct fast *f, uint32_t thread)
{
	return atomic_load_explicit(&f->thread[thread]->last_turn_ns, memory_order_relaxed);
}

bool fast_is_asleep(const struct fast *f, uint32_t thread)
{
	return atomic_load_explicit(&f->page->thread[thread].armed, memory_order_relaxed);
}
