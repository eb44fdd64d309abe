/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a thread holds while it sleeps, so that it can be given back when the thread never comes
 * back from the sleep: longjmp out of a signal handler, cancellation. Not in a packet's way. Each
 * thread has its own records.
 *
 * Invariants: records are a stack, as the frames they belong to. A record is dead when a call
 * of the library begins in a frame that is not below the record's (stacks grow down): a handler
 * that runs on top of the sleep is always below, but on an alternate signal stack, where nothing
 * is given back. A handler may push and pop at any instruction of these functions: a place is
 * claimed before it is filled.
 */
#define _GNU_SOURCE 1
#include <pthread.h>
#include <signal.h>

#include "preload/poll.h"

#define RECORDS 16 /* nested sleeps beyond these leak what they hold if they are left by longjmp */

__thread uint32_t held_count __attribute__((tls_model("initial-exec")));
static __thread struct held records[RECORDS] __attribute__((tls_model("initial-exec")));
static __thread bool has_exit __attribute__((tls_model("initial-exec")));
static pthread_key_t exit_key;
static pthread_once_t exit_once = PTHREAD_ONCE_INIT;

static void give_back(uint32_t place)
{
	struct held h = records[place];

	records[place] = (struct held){0};
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	held_count = place;
	if (h.count)
		atomic_fetch_sub_explicit(h.count, 1, memory_order_seq_cst);
	if (h.undo)
		h.undo(h.arg);
	if (h.file)
		file_put_more(h.file, h.refs);
}

static void on_exit_of_thread(void *arg)
{
	(void)arg;
	has_exit = false;
	while (held_count && held_count <= RECORDS)
		give_back(held_count - 1);
	poll_thread_exit();
}

static void make_key(void)
{
	pthread_key_create(&exit_key, on_exit_of_thread);
}

uint32_t held_push(const struct held *h)
{
	uint32_t place = held_count;

	held_count = place + 1;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	if (place >= RECORDS)
		return place;
	records[place] = *h;
	if (unlikely(!has_exit)) {
		pthread_once(&exit_once, make_key);
		has_exit = !pthread_setspecific(exit_key, records);
	}
	return place;
}

void held_pop(uint32_t place)
{
	if (held_count <= place)
		return; /* a forked child, back from the handler that forked */
	while (held_count > place + 1) {
		if (held_count <= RECORDS)
			give_back(held_count - 1); /* of a handler that was left by longjmp */
		else
			held_count--;
	}
	if (place < RECORDS)
		records[place] = (struct held){0};
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	held_count = place;
}

void held_pop_file(const struct file *f, const void *frame)
{
	for (uint32_t i = MIN(held_count, (uint32_t)RECORDS); i > 0; i--) {
		if (records[i - 1].file == f && (const char *)records[i - 1].frame <= (const char *)frame) {
			held_pop(i - 1);
			return;
		}
	}
}

void held_reap_slow(void *frame)
{
	uint32_t top = MIN(held_count, (uint32_t)RECORDS);
	stack_t stack;

	if (!top || (char *)frame < (char *)records[top - 1].frame || sigaltstack(NULL, &stack) ||
	    (stack.ss_flags & SS_ONSTACK))
		return;
	held_count = top;
	while (held_count && (char *)records[held_count - 1].frame <= (char *)frame)
		give_back(held_count - 1);
}

void held_child(void)
{
	for (uint32_t i = 0; i < RECORDS; i++)
		records[i] = (struct held){0};
	held_count = 0;
}
