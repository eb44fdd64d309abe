// SPDX-License-Identifier: GPL-2.0-or-later
/* io_uring on a connection, by system calls alone. */
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "tests/posix/posix.h"

static struct {
	int fd;
	struct io_uring_params p;
	char *sq, *cq;
	struct io_uring_sqe *sqe;
} ring;

static uint32_t *at(char *area, uint32_t offset)
{
	return (uint32_t *)(void *)(area + offset);
}

static void ring_open(void)
{
	ring.fd = (int)syscall(SYS_io_uring_setup, 4, &ring.p);
	if (ring.fd < 0)
		fatal("io_uring_setup: %s", strerror(errno));
	ring.sq = mmap(NULL, ring.p.sq_off.array + ring.p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd,
		       IORING_OFF_SQ_RING);
	ring.cq = mmap(NULL, ring.p.cq_off.cqes + ring.p.cq_entries * sizeof(struct io_uring_cqe),
		       PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_CQ_RING);
	ring.sqe = mmap(NULL, ring.p.sq_entries * sizeof(*ring.sqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd,
			IORING_OFF_SQES);
	if (ring.sq == MAP_FAILED || ring.cq == MAP_FAILED || ring.sqe == MAP_FAILED)
		fatal("io_uring: mmap: %s", strerror(errno));
}

/* One operation, and its result: -errno as it comes. Bounded by a time-out of the kernel's. */
static int ring_do(uint8_t op, int fd, void *buf, uint32_t n)
{
	struct __kernel_timespec limit = {.tv_sec = 2};
	struct io_uring_getevents_arg arg = {.ts = (uint64_t)(uintptr_t)&limit};
	uint32_t tail = *at(ring.sq, ring.p.sq_off.tail), head = *at(ring.cq, ring.p.cq_off.head);
	uint32_t i = tail & *at(ring.sq, ring.p.sq_off.ring_mask);
	struct io_uring_cqe *cqe;

	ring.sqe[i] = (struct io_uring_sqe){.opcode = op, .fd = fd, .addr = (uint64_t)(uintptr_t)buf, .len = n};
	if (op == IORING_OP_POLL_ADD)
		ring.sqe[i].poll32_events = n;
	at(ring.sq, ring.p.sq_off.array)[i] = i;
	/* pairs with the kernel's look at it in the call below */
	__atomic_store_n(at(ring.sq, ring.p.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg,
		    sizeof(arg)) < 0)
		return -errno;
	/* pairs with the kernel's publication of the answer */
	if (__atomic_load_n(at(ring.cq, ring.p.cq_off.tail), __ATOMIC_ACQUIRE) == head)
		return -ETIME;
	cqe = (struct io_uring_cqe *)(void *)(ring.cq + ring.p.cq_off.cqes) +
	      (head & *at(ring.cq, ring.p.cq_off.ring_mask));
	*at(ring.cq, ring.p.cq_off.head) = head + 1;
	return cqe->res;
}

static void ring_say(const char *what, int ret, const char *buf)
{
	if (ret < 0)
		say("%s = %s", what, err_name(-ret));
	else if (buf)
		say("%s = %d \"%.*s\"", what, ret, ret, buf);
	else
		say("%s = %d", what, ret);
}

static void uring_recv(void)
{
	struct conn *c = conn_open();
	char buf[100];

	ring_open();
	if (this_case->a) {
		peer_text(c, "was there");
		await_in(c->fd, 9);
	} else {
		peer_text_later(40, c, "came later");
	}
	ring_say("RECV", ring_do(IORING_OP_RECV, c->fd, buf, sizeof(buf)), buf);
	if (!this_case->a)
		peer_wait();
}

static void uring_send(void)
{
	struct conn *c = conn_open();

	ring_open();
	tell(send(c->fd, "send, ", 6, 0), "send");
	ring_say("SEND", ring_do(IORING_OP_SEND, c->fd, "then ring", 9), NULL);
	peer_recv_say(c, 15);
}

static void uring_poll(void)
{
	struct conn *c = conn_open();
	int ret;

	ring_open();
	peer_text_later(40, c, "x");
	ret = ring_do(IORING_OP_POLL_ADD, c->fd, NULL, POLLIN);
	say("POLL_ADD: %s", ret < 0 ? err_name(-ret) : event_names((uint32_t)ret));
	peer_wait();
}

static void uring_close(void)
{
	struct conn *c = conn_open();

	ring_open();
	tell(send(c->fd, "last", 4, 0), "send");
	ring_say("CLOSE", ring_do(IORING_OP_CLOSE, c->fd, NULL, 0), NULL);
	peer_drain_say(c);
}

#define URING "io_uring goes past the library"

const struct test_case cases_uring[] = {
	CASE_RETURNS("uring/recv", "IORING_OP_RECV waits for data", uring_recv, URING),
	{.name = "uring/recv-unread",
	 .text = "IORING_OP_RECV of data that are there",
	 .run = uring_recv,
	 .returns = URING,
	 .a = 1},
	CASE_RETURNS("uring/send", "send, then IORING_OP_SEND", uring_send, URING),
	CASE_RETURNS("uring/poll", "IORING_OP_POLL_ADD", uring_poll, URING),
	CASE_RETURNS("uring/close", "IORING_OP_CLOSE", uring_close, URING),
	{.name = NULL},
};
