/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When XDP is on the NIC, where it comes and goes (see service/nic/attach.c): an application
 * whose connection has become worth adopting asks for it (PREPARE) and goes on in Linux until
 * it is there, an adoption that comes earlier waits, and when the table of connections has
 * been empty for [nic] detach_ms it is taken off. Connections in TIME_WAIT are in the table,
 * so frames of theirs are still ours. After ten times as long the program at tc egress goes, too. Main thread.
 *
 * Invariant: XDP is attached, or being attached, whenever a connection is in the table; as a
 * change cannot be stopped, a connection may come while XDP is being detached, and it is
 * attached again after that.
 */
#include "service/slow/internal.h"

#include <errno.h>
#include <string.h>

#include "service/base/clock.h"
#include "service/base/log.h"

#define DEMAND_RETRY_NS NS_PER_S         /* after a failure */
#define DEMAND_HOLD_NS (300 * NS_PER_MS) /* who asked for it must have time to notice */
#define DEMAND_STRIP_AFTER 10            /* times detach_ms: then the program at tc egress goes, too */

/* Tell the applications. Pairs with the acquire load in core_prepare(). */
static void demand_publish(struct slow *s, bool ready)
{
	atomic_store_explicit(&s->env.page->ready, ready, memory_order_release);
}

static void demand_timer(void *ctx, uint64_t now_ns);

static bool demand_attach(struct slow *s)
{
	int rc = nic_attach(s->env.nic);

	if (rc)
		log_warn("cannot begin to attach XDP: %s", strerror(-rc));
	return !rc;
}

/* The table is empty; take XDP off when it has stayed so, and a connection is not expected for @hold_ns any more. */
static void demand_expect(struct slow *s, uint64_t hold_ns)
{
	bool attached = nic_attachment(s->env.nic) == NIC_ATTACHED;

	s->detach_due_ns =
		s->now_ns + MAX(s->cfg->detach_ms * NS_PER_MS * (attached ? 1 : DEMAND_STRIP_AFTER), hold_ns);
	if (s->detach_timer < 0 && s->attach_watch >= 0 && !s->stopping)
		s->detach_timer = loop_timer(s->env.loop, s->detach_due_ns - s->now_ns, 0, demand_timer, s);
}

void demand_empty(struct slow *s)
{
	demand_expect(s, 0);
}

/* A change is done, or failed: said once, however often applications ask. */
static void demand_note(struct slow *s, int rc, bool attached)
{
	demand_publish(s, attached);
	if (rc) {
		if (!s->attach_failed_ns)
			log_warn("cannot attach XDP: %s: connections stay with Linux", strerror(-rc));
		s->attach_failed_ns = s->now_ns;
		return;
	}
	s->attach_failed_ns = 0;
	if (nic_attachment(s->env.nic) == NIC_BARE) {
		log_debug("tc egress is detached");
		return;
	}
	log_debug("XDP is %s", attached ? "attached" : "detached");
	counter_add(&s->counters, attached ? CNT_XDP_ATTACH : CNT_XDP_DETACH, 1);
}

static void demand_changed(void *ctx, int revents)
{
	struct slow *s = ctx;
	int rc = nic_attach_finish(s->env.nic);
	bool attached = nic_attachment(s->env.nic) == NIC_ATTACHED;

	(void)revents;
	if (rc == -EINPROGRESS)
		return;
	s->now_ns = clock_now_ns();
	demand_note(s, rc, attached);
	if (attached || rc)
		adopt_attached(s, rc);
	else if (s->list_head != SLOW_NONE && !demand_attach(s))
		adopt_attached(s, -EAGAIN);
	if (s->list_head == SLOW_NONE && nic_attachment(s->env.nic) != NIC_BARE)
		demand_expect(s, attached ? DEMAND_HOLD_NS : 0);
}

bool demand_ready(struct slow *s)
{
	switch (nic_attachment(s->env.nic)) {
	case NIC_ATTACHED:
		return true;
	case NIC_DETACHED:
	case NIC_BARE:
		demand_attach(s); /* if not, the adoption times out */
		return false;
	case NIC_ATTACHING:
	case NIC_DETACHING:
		return false;
	}
	return false;
}

void demand_prepare(struct slow *s)
{
	if (s->stopping || (s->attach_failed_ns && s->now_ns - s->attach_failed_ns < DEMAND_RETRY_NS))
		return;
	demand_ready(s);
}

/* XDP goes, or, where it has gone, the program at tc egress. */
static void demand_step_down(struct slow *s)
{
	if (nic_attachment(s->env.nic) == NIC_DETACHED) {
		nic_strip(s->env.nic); /* if not, it stays */
		return;
	}
	demand_publish(s, false);
	if (!nic_detach(s->env.nic))
		return;
	demand_publish(s, true);
	demand_empty(s); /* later */
}

static void demand_timer(void *ctx, uint64_t now_ns)
{
	struct slow *s = ctx;
	enum nic_attachment now = nic_attachment(s->env.nic);

	s->detach_timer = -1;
	if (s->list_head != SLOW_NONE || s->stopping || (now != NIC_ATTACHED && now != NIC_DETACHED))
		return;
	if (now_ns < s->detach_due_ns)
		s->detach_timer = loop_timer(s->env.loop, s->detach_due_ns - now_ns, 0, demand_timer, s);
	else
		demand_step_down(s);
}

int demand_open(struct slow *s)
{
	if (!nic_get_info(s->env.nic)->on_demand) {
		demand_publish(s, true);
		return 0;
	}
	s->attach_watch = loop_watch(s->env.loop, nic_attach_fd(s->env.nic), demand_changed, s);
	if (s->attach_watch < 0)
		return s->attach_watch;
	/* it was attached to see that it can be */
	s->detach_due_ns = s->now_ns;
	demand_step_down(s);
	return 0;
}

void demand_close(struct slow *s)
{
	if (s->attach_watch >= 0)
		loop_unwatch(s->env.loop, s->attach_watch);
	if (s->detach_timer >= 0)
		loop_timer_cancel(s->env.loop, s->detach_timer);
	s->attach_watch = s->detach_timer = -1;
}
