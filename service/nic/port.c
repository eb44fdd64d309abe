/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One AF_XDP socket on one receive queue, with a frame pool of its own: first and last
 * stage of a packet's way. Opened by the main thread, then used by one fast thread only.
 *
 * Frames never change sides: the lower half of the pool circulates between the fill ring,
 * the receive ring and the caller, the upper half between the stack of free frames, the
 * transmit ring and the completion ring. Each ring holds a whole half, so no ring of a half
 * can overflow, and no frame can get lost.
 */
#include <errno.h>
#include <linux/if_xdp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "service/nic/internal.h"

#define KICKS_MAX 4 /* per flush; a copy-mode kick sends 32 frames or the whole budget */
#define BUSY_TRIES 150
#define BUSY_WAIT_US 20000
#define FRAMES_MIN 128u
#define FRAMES_MAX 65536u

#ifndef SOL_XDP
#define SOL_XDP 283
#endif
#define OPT_MAX_TX_SKB_BUDGET 9 /* XDP_MAX_TX_SKB_BUDGET, kernel 6.17 on */

/* ---- opening ---- */

static void port_open_why(struct why *why, const struct nic_info *info, uint32_t queue, int rc)
{
	switch (rc) {
	case -EBUSY:
		why_set(why, "%s: queue %u is in use by another AF_XDP socket: stop that program first", info->name,
			queue);
		break;
	case -EPERM:
	case -EACCES:
		why_set(why, "%s: not permitted to open AF_XDP sockets: needs root, or CAP_NET_RAW", info->name);
		break;
	case -EAFNOSUPPORT:
		why_set(why, "the kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS)");
		break;
	case -ENOBUFS:
	case -ENOMEM:
		why_set(why,
			"%s: no memory for the frames of queue %u: raise the memory-lock limit, or configure fewer",
			info->name, queue);
		break;
	default:
		why_set(why, "%s: cannot open an AF_XDP socket on queue %u: %s", info->name, queue, strerror(-rc));
	}
}

static void port_socket_close(struct port *p)
{
	if (p->xsk)
		xsk_socket__delete(p->xsk);
	if (p->umem)
		xsk_umem__delete(p->umem);
	p->xsk = NULL;
	p->umem = NULL;
}

/* A failed attempt leaves the umem's rings half set up, so each attempt begins with a fresh one. */
static int port_socket_open(struct port *p, const struct nic_info *info, uint32_t queue, uint16_t bind_flags)
{
	const struct xsk_umem_config umem = {.fill_size = p->frames / 2,
					     .comp_size = p->frames / 2,
					     .frame_size = p->frame_size};
	const struct xsk_socket_config cfg = {.rx_size = p->frames / 2,
					      .tx_size = p->frames / 2,
					      .libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD,
					      .bind_flags = (uint16_t)(bind_flags | XDP_USE_NEED_WAKEUP)};
	int rc = xsk_umem__create(&p->umem, p->umem_area, p->umem_size, &p->fill, &p->comp, &umem);

	if (rc) {
		p->umem = NULL;
		return rc;
	}
	rc = xsk_socket__create(&p->xsk, info->name, queue, p->umem, &p->rx, &p->tx, &cfg);
	if (rc) {
		p->xsk = NULL;
		port_socket_close(p);
		return rc;
	}
	p->fd = xsk_socket__fd(p->xsk);
	return 0;
}

/*
 * Zero copy if wanted and possible, else copy mode. The kernel lets go of a closed socket's
 * queue a moment later, so a service that is started again may find it busy for a while.
 */
static int port_socket_open_any(struct port *p, const struct nic_info *info, uint32_t queue, bool *zerocopy)
{
	bool try_zerocopy = *zerocopy;
	int rc = -EBUSY;

	for (int i = 0; i < BUSY_TRIES && rc == -EBUSY; i++) {
		if (i)
			usleep(BUSY_WAIT_US);
		rc = try_zerocopy ? port_socket_open(p, info, queue, XDP_ZEROCOPY) : -EOPNOTSUPP;
		*zerocopy = !rc;
		if (rc && rc != -EBUSY && rc != -EPERM)
			rc = port_socket_open(p, info, queue, XDP_COPY);
	}
	return rc;
}

/* All receive frames into the fill ring, all transmit frames onto the stack. */
static void port_frames_init(struct port *p)
{
	uint32_t half = p->frames / 2, idx;

	if (xsk_ring_prod__reserve(&p->fill, half, &idx) == half) {
		for (uint32_t i = 0; i < half; i++)
			*xsk_ring_prod__fill_addr(&p->fill, idx + i) = (uint64_t)i * p->frame_size;
		xsk_ring_prod__submit(&p->fill, half);
	}
	for (uint32_t i = 0; i < half; i++)
		p->tx_free[i] = (uint64_t)(p->frames - 1 - i) * p->frame_size;
	p->tx_free_count = half;
}

int port_open(struct port *p, const struct nic_info *info, uint32_t queue, uint32_t frames, bool *zerocopy,
	      struct why *why)
{
	int rc, budget;

	memset(p, 0, sizeof *p);
	if (frames < FRAMES_MIN || frames > FRAMES_MAX || (frames & (frames - 1))) {
		why_set(why, "frames per queue must be a power of two between %u and %u", FRAMES_MIN, FRAMES_MAX);
		return -EINVAL;
	}
	p->frames = frames;
	p->frame_size = info->mtu + PORT_FRAME_RESERVE <= PORT_FRAME_SMALL ? PORT_FRAME_SMALL : PORT_FRAME_LARGE;
	p->umem_size = (size_t)frames * p->frame_size;
	p->tx_free = calloc(frames / 2, sizeof *p->tx_free);
	p->umem_area =
		mmap(NULL, p->umem_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (!p->tx_free || p->umem_area == MAP_FAILED) {
		rc = -ENOMEM;
		goto fail;
	}
	rc = port_socket_open_any(p, info, queue, zerocopy);
	if (rc)
		goto fail;
	budget = (int)frames / 2;
	/* one kick sends the whole ring; older kernels send 32 frames per kick, which port_flush() copes with */
	setsockopt(p->fd, SOL_XDP, OPT_MAX_TX_SKB_BUDGET, &budget, sizeof budget);
	port_frames_init(p);
	return 0;
fail:
	port_open_why(why, info, queue, rc);
	port_close(p);
	return rc;
}

void port_open_none(struct port *p)
{
	static uint32_t nothing; /* producer, consumer and flags of every ring; never written */

	memset(p, 0, sizeof *p);
	p->rx.producer = p->rx.consumer = p->comp.producer = p->comp.consumer = &nothing;
	p->tx.producer = p->tx.consumer = p->fill.producer = p->fill.consumer = &nothing;
	p->rx.flags = p->comp.flags = p->tx.flags = p->fill.flags = &nothing;
	p->fd = -1;
}

void port_close(struct port *p)
{
	port_socket_close(p);
	if (p->umem_area && p->umem_area != MAP_FAILED)
		munmap(p->umem_area, p->umem_size);
	free(p->tx_free);
	p->umem_area = NULL;
	p->tx_free = NULL;
}

/* ---- receive ---- */

uint32_t port_rx(struct port *p, struct frame *out, uint32_t max)
{
	uint32_t idx, n = xsk_ring_cons__peek(&p->rx, max, &idx);

	if (!n)
		return 0;
	if (!p->rx_held)
		p->rx_next = idx;
	p->rx_held += n;
	for (uint32_t i = 0; i < n; i++) {
		const struct xdp_desc *d = xsk_ring_cons__rx_desc(&p->rx, idx + i);

		out[i].data = p->umem_area + d->addr;
		out[i].len = d->len;
	}
	return n;
}

void port_rx_release(struct port *p, uint32_t n)
{
	uint32_t idx;

	n = MIN(n, p->rx_held);
	/* there is always room: the ring holds every receive frame */
	if (!n || xsk_ring_prod__reserve(&p->fill, n, &idx) != n)
		return;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t addr = xsk_ring_cons__rx_desc(&p->rx, p->rx_next + i)->addr;

		*xsk_ring_prod__fill_addr(&p->fill, idx + i) = addr & ~(uint64_t)(p->frame_size - 1);
	}
	xsk_ring_prod__submit(&p->fill, n);
	xsk_ring_cons__release(&p->rx, n);
	p->rx_next += n;
	p->rx_held -= n;
}

bool port_rx_ready(const struct port *p)
{
	/* pairs with the kernel's release of the producer index */
	return __atomic_load_n(p->rx.producer, __ATOMIC_ACQUIRE) != p->rx.cached_cons;
}

int port_fd(const struct port *p)
{
	return p->fd;
}

/* ---- transmit ---- */

uint32_t port_frame_size(const struct port *p)
{
	return p->frame_size;
}

static void port_reap(struct port *p)
{
	uint32_t idx, n = xsk_ring_cons__peek(&p->comp, p->frames / 2, &idx);

	for (uint32_t i = 0; i < n; i++)
		p->tx_free[p->tx_free_count++] = *xsk_ring_cons__comp_addr(&p->comp, idx + i);
	if (n)
		xsk_ring_cons__release(&p->comp, n);
}

uint32_t port_tx_room(const struct port *p)
{
	if (unlikely(p->fd < 0)) /* no NIC, and so no frames: flows that need none never wait for room */
		return 1u << 20;
	/* pairs with the kernel's release of the completion ring's producer index */
	return p->tx_free_count + (__atomic_load_n(p->comp.producer, __ATOMIC_ACQUIRE) - p->comp.cached_cons);
}

uint8_t *port_tx_begin(struct port *p)
{
	if (!p->tx_free_count)
		port_reap(p);
	return p->tx_free_count ? p->umem_area + p->tx_free[p->tx_free_count - 1] : NULL;
}

void port_tx_commit(struct port *p, uint32_t len)
{
	struct xdp_desc *d;
	uint32_t idx;

	/* a free frame means a free slot: the ring holds every transmit frame */
	if (!p->tx_free_count || xsk_ring_prod__reserve(&p->tx, 1, &idx) != 1)
		return;
	d = xsk_ring_prod__tx_desc(&p->tx, idx);
	d->addr = p->tx_free[--p->tx_free_count];
	d->len = len;
	d->options = 0;
	p->tx_unsubmitted++;
}

/* Descriptors given to the kernel that it has not taken. */
static uint32_t port_tx_queued(const struct port *p)
{
	/* pairs with the kernel's release of the consumer index */
	return *p->tx.producer - __atomic_load_n(p->tx.consumer, __ATOMIC_ACQUIRE);
}

void port_flush(struct port *p)
{
	uint32_t queued;

	if (p->tx_unsubmitted) {
		xsk_ring_prod__submit(&p->tx, p->tx_unsubmitted);
		p->tx_unsubmitted = 0;
	}
	for (int i = 0; i < KICKS_MAX; i++) {
		queued = port_tx_queued(p);
		if (!queued || !xsk_ring_prod__needs_wakeup(&p->tx))
			break;
		/*
		 * EAGAIN: more is left, or the device or the socket's send buffer is full. EBUSY, ENOBUFS,
		 * ENETDOWN: not now. What the kernel did not take stays in the ring for the next flush.
		 */
		if (sendto(p->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 && errno != EAGAIN)
			break;
		if (port_tx_queued(p) == queued)
			break;
	}
	if (xsk_ring_prod__needs_wakeup(&p->fill))
		recvfrom(p->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
	port_reap(p);
}

bool port_tx_pending(const struct port *p)
{
	return p->tx_unsubmitted || port_tx_queued(p);
}
