/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The NIC's XDP program, attached only while there are flows, and what looks at Linux's segments at its egress, which
 * costs less and stays for longer. Off a packet's way.
 *
 * While it is attached every frame pays for it, Linux's own too: a veth copies each packet
 * into a buffer that XDP may write to. Attaching and detaching wait for a grace period of the
 * kernel (some milliseconds) under the lock of all network configuration, so a thread is
 * made for each change; it does this one thing and tells by an eventfd that it has.
 *
 * Main thread, but for change(). Invariant: at most one change runs; from its start until
 * nic_attach_finish() has joined it, link_fd, rc and `wanted` are the thread's.
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "service/base/compiler.h"
#include "service/nic/internal.h"

/* Drivers that neither drop the link nor reset queues for it. */
static const char *const cheap[] = {"veth", "tun"};

bool attach_is_cheap(const char *driver)
{
	for (size_t i = 0; i < ARRAY_SIZE(cheap); i++)
		if (!strcmp(driver, cheap[i]))
			return true;
	return false;
}

int attach_open(struct attach *a, int ifindex, int prog_fd, struct tc_attachment *egress, int egress_fd)
{
	a->ifindex = ifindex;
	a->prog_fd = prog_fd;
	a->egress = egress;
	a->egress_fd = egress_fd;
	a->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return a->event_fd < 0 ? -errno : 0;
}

void attach_close(struct attach *a)
{
	if (a->running)
		pthread_join(a->thread, NULL);
	a->running = false;
	if (a->link_fd >= 0)
		close(a->link_fd);
	if (a->event_fd >= 0)
		close(a->event_fd);
	a->link_fd = a->event_fd = -1;
}

/* First the egress: no flow may be while something of it leaks past. */
static int change_on(struct attach *a)
{
	char text[200];
	struct why why = {.buf = text, .size = sizeof text};
	bool native, tcx;
	int rc = 0;

	if (a->egress_fd >= 0 && a->egress->link_fd < 0)
		rc = link_tc(a->ifindex, "", a->egress_fd, true, false, a->egress, &tcx, &why);
	return rc ? rc : link_xdp_create(a->ifindex, a->prog_fd, false, &native, &a->link_fd);
}

static void *change(void *arg)
{
	struct attach *a = arg;
	uint64_t one = 1;

	a->rc = 0;
	if (a->goal == NIC_ATTACHED) {
		a->rc = change_on(a);
	} else if (a->goal == NIC_DETACHED) {
		close(a->link_fd);
		a->link_fd = -1;
	} else {
		link_tc_remove(a->egress);
	}
	/* the counter cannot be full: it is read after each change */
	return write(a->event_fd, &one, sizeof one) < 0 ? NULL : a;
}

int attach_start(struct attach *a, enum nic_attachment goal)
{
	enum nic_attachment state = attach_state(a);
	int rc;

	if (goal == NIC_BARE && a->egress_fd < 0)
		return -EOPNOTSUPP;
	/* one step at a time down */
	if (a->running || state == goal || (goal != NIC_ATTACHED && state + 1 != goal))
		return -EALREADY;
	a->goal = goal;
	rc = pthread_create(&a->thread, NULL, change, a);
	a->running = !rc;
	return -rc;
}

int attach_finish(struct attach *a)
{
	uint64_t n;

	if (!a->running || read(a->event_fd, &n, sizeof n) < 0)
		return -EINPROGRESS;
	pthread_join(a->thread, NULL);
	a->running = false;
	return a->rc;
}

enum nic_attachment attach_state(const struct attach *a)
{
	if (a->running)
		return a->goal == NIC_ATTACHED ? NIC_ATTACHING : NIC_DETACHING;
	if (a->link_fd >= 0)
		return NIC_ATTACHED;
	return a->egress_fd >= 0 && a->egress->link_fd < 0 ? NIC_BARE : NIC_DETACHED;
}
