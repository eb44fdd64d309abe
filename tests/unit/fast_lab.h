/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A laboratory for the fast path: fast threads over ports made of arrays, applications made
 * of memory, and a clock that the test turns. Included by one test program each; it defines
 * the functions of service/nic/nic.h.
 */
#ifndef TESTS_UNIT_FAST_LAB_H
#define TESTS_UNIT_FAST_LAB_H

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "service/base/clock.h"
#include "service/fast/thread.h"
#include "service/wire/csum.h"
#include "service/wire/parse.h"

#define LAB_FRAME 2048
#define LAB_RING 256
#define LAB_APP 3
#define LAB_SLOT 5
#define LAB_FLOW 9
#define LAB_MSS 1000
#define LAB_US NS_PER_US
#define LAB_MS NS_PER_MS

/* ---- the port ---- */

struct port {
	uint8_t rx[LAB_RING][LAB_FRAME], tx[LAB_RING][LAB_FRAME];
	uint32_t rx_len[LAB_RING], tx_len[LAB_RING];
	uint32_t rx_n, rx_taken, tx_n, tx_room;
	int fd;
};

struct nic {
	struct nic_info info;
	struct port port;
};

const struct nic_info *nic_get_info(const struct nic *n)
{
	return &n->info;
}
struct port *nic_port(struct nic *n, uint32_t queue)
{
	(void)queue;
	return &n->port;
}

uint32_t port_rx(struct port *p, struct frame *out, uint32_t max)
{
	uint32_t n = 0;

	for (; n < max && n < p->rx_n; n++)
		out[n] = (struct frame){p->rx[n], p->rx_len[n]};
	p->rx_taken = n;
	return n;
}

void port_rx_release(struct port *p, uint32_t n)
{
	memmove(p->rx, p->rx + n, (p->rx_n - n) * sizeof p->rx[0]);
	memmove(p->rx_len, p->rx_len + n, (p->rx_n - n) * sizeof p->rx_len[0]);
	p->rx_n -= n;
}

bool port_rx_ready(const struct port *p)
{
	return p->rx_n != 0;
}
uint8_t *port_tx_begin(struct port *p)
{
	return p->tx_n < p->tx_room ? p->tx[p->tx_n] : NULL;
}
void port_tx_commit(struct port *p, uint32_t len)
{
	p->tx_len[p->tx_n++] = len;
}
uint32_t port_frame_size(const struct port *p)
{
	(void)p;
	return LAB_FRAME;
}
uint32_t port_tx_room(const struct port *p)
{
	return p->tx_room - p->tx_n;
}
void port_flush(struct port *p)
{
	(void)p;
}
bool port_tx_pending(const struct port *p)
{
	(void)p;
	return false;
}
int port_fd(const struct port *p)
{
	return p->fd;
}

/* A frame arrives. False: the ring is full, the frame is lost. */
static inline bool lab_arrive(struct port *p, const uint8_t *frame, uint32_t len)
{
	if (p->rx_n == LAB_RING)
		return false;
	memcpy(p->rx[p->rx_n], frame, len);
	p->rx_len[p->rx_n++] = len;
	return true;
}

/* ---- a host: one fast thread, one application, one flow ---- */

struct lab_host {
	struct nic nic;
	struct fast *fast;
	struct fast_thread *t;
	struct ipc_page *page;
	struct ipc_app *shm;
	struct ipc_slot *slot;
	uint8_t *buf;
	int context_fd;
	struct flow_init init;
};

static inline struct flow *lab_flow(struct lab_host *h)
{
	return &h->t->flows[LAB_FLOW];
}

static inline void *lab_alloc(size_t size)
{
	void *p = aligned_alloc(64, (size + 63) / 64 * 64);

	assert_non_null(p);
	memset(p, 0, size);
	return p;
}

static inline void lab_command(struct lab_host *h, enum fast_cmd cmd, const void *data, uint32_t len)
{
	void *p = recring_reserve(fast_down(h->fast, 0), cmd, len);

	assert_non_null(p);
	memcpy(p, data, len);
	recring_commit(fast_down(h->fast, 0));
}

static inline void lab_flow_command(struct lab_host *h, enum fast_cmd cmd, uint32_t error, uint32_t value)
{
	struct cmd_flow c = {LAB_FLOW, error, value};

	lab_command(h, cmd, &c, sizeof c);
}

/* The next record that came up, consumed; its type, or -1. */
static inline int lab_up(struct lab_host *h, void *copy, uint32_t size)
{
	uint32_t type, len;
	void *p = recring_peek(fast_up(h->fast, 0), &type, &len);

	if (!p)
		return -1;
	if (copy)
		memcpy(copy, p, len < size ? len : size);
	recring_consume(fast_up(h->fast, 0));
	return (int)type;
}

static inline struct flow_init lab_init(uint8_t us, uint8_t peer, uint32_t snd_base, uint32_t rcv_base)
{
	struct flow_init i;

	memset(&i, 0, sizeof i);
	i.flow_id = LAB_FLOW;
	i.app = LAB_APP;
	i.slot = LAB_SLOT;
	i.tmpl.key.local = (struct ip_addr){.w = {0, 0, htonl(0xffff), htonl(0x0a000000u + us)}};
	i.tmpl.key.remote = (struct ip_addr){.w = {0, 0, htonl(0xffff), htonl(0x0a000000u + peer)}};
	i.tmpl.key.local_port = htons((uint16_t)(1000 + us));
	i.tmpl.key.remote_port = htons((uint16_t)(1000 + peer));
	i.tmpl.ttl = 64;
	i.tmpl.dont_fragment = true;
	i.snd_base = snd_base;
	i.rcv_base = rcv_base;
	i.snd_wnd = 65536;
	i.snd_wl1 = rcv_base;
	i.rcv_edge = rcv_base + 65536;
	i.cwnd_bytes = 10 * LAB_MSS;
	i.rx_size = i.tx_size = 65536;
	i.tx_off = 65536;
	i.mss = LAB_MSS;
	i.snd_wscale = i.rcv_wscale = 7;
	i.ts = i.sack = true;
	i.ts_recent = 5000;
	i.ts_ms = 5000;
	i.srtt_us = 1000;
	i.rttvar_us = 500;
	i.opts = IPC_OPT_NODELAY;
	return i;
}

/* Opens the host and hands it its application; lab_install() then starts the flow. */
static inline struct lab_host *lab_open(void)
{
	struct lab_host *h = lab_alloc(sizeof *h);
	struct fast_config cfg = {
		.max_flows = 64, .spin_us = 0, .min_rto_ms = 200, .delack_ms = 20, .max_retries = 15, .hash = {1, 2}};
	struct fast_app add = {.app = LAB_APP, .buf_size = 1 << 21, .doorbell_fd = -1};

	h->nic.info.queues = 1;
	h->nic.port.tx_room = LAB_RING;
	h->nic.port.fd = eventfd(0, 0);
	h->page = lab_alloc(sizeof *h->page);
	assert_int_equal(fast_open(&cfg, &h->nic, h->page, &h->fast), 0);
	h->t = h->fast->thread[0];
	h->shm = lab_alloc(sizeof *h->shm);
	h->slot = &h->shm->slot[LAB_SLOT];
	h->buf = lab_alloc(1 << 21);
	h->context_fd = eventfd(0, EFD_NONBLOCK);
	add.shm = h->shm;
	add.buf = h->buf;
	for (int i = 0; i < IPC_CONTEXTS; i++)
		add.context_fd[i] = i ? -1 : h->context_fd;
	lab_command(h, CMD_APP_ADD, &add, sizeof add);
	return h;
}

static inline void lab_install(struct lab_host *h, const struct flow_init *i, uint64_t now_ns)
{
	h->init = *i;
	atomic_store(&h->slot->opts, i->opts); /* the application's own word */
	lab_command(h, CMD_INSTALL, i, sizeof *i);
	thread_turn(h->t, now_ns);
	assert_int_equal(IPC_STATE(atomic_load(&h->slot->status)), IPC_FAST);
}

static inline void lab_close(struct lab_host *h)
{
	close(h->nic.port.fd);
	close(h->context_fd);
	fast_close(h->fast);
	free(h->page);
	free(h->shm);
	free(h->buf);
	free(h);
}

/* ---- the application ---- */

/* The byte at offset @o of stream @stream. */
static inline uint8_t lab_byte(uint32_t stream, uint64_t o)
{
	uint64_t x = (o + 1) * 0x9e3779b97f4a7c15ull + stream * 0xbf58476d1ce4e5b9ull;

	return (uint8_t)(x >> 32 ^ x >> 56);
}

/* Write up to @len bytes of stream @stream; returns how many fitted. */
static inline uint32_t lab_write(struct lab_host *h, uint32_t stream, uint32_t len)
{
	uint64_t end = atomic_load(&h->slot->snd_end), acked = atomic_load(&h->slot->snd_acked);
	uint32_t room = h->init.tx_size - (uint32_t)(end - acked);

	len = len < room ? len : room;
	for (uint32_t i = 0; i < len; i++)
		h->buf[h->init.tx_off + ((end + i) & (h->init.tx_size - 1))] = lab_byte(stream, end + i);
	atomic_store(&h->slot->snd_end, end + len);
	bell_ring(&h->shm->dirty[0], LAB_SLOT);
	return len;
}

/* Read up to @len bytes and compare them with stream @stream. Returns how many there were. */
static inline uint32_t lab_read(struct lab_host *h, uint32_t stream, uint32_t len)
{
	uint64_t at = atomic_load(&h->slot->rcv_read), end = atomic_load(&h->slot->rcv_end);
	uint32_t n = (uint32_t)(end - at);

	n = n < len ? n : len;
	for (uint32_t i = 0; i < n; i++)
		if (h->buf[h->init.rx_off + ((at + i) & (h->init.rx_size - 1))] != lab_byte(stream, at + i))
			fail_msg("stream %u differs at %lu", stream, (unsigned long)(at + i));
	atomic_store(&h->slot->rcv_read, at + n);
	bell_ring(&h->shm->dirty[0], LAB_SLOT);
	return n;
}

/* ---- frames by hand ---- */

/* What the peer of @h sends: offsets are relative to the bases of the flow. */
struct lab_seg {
	uint32_t seq, ack; /* relative to rcv_base, snd_base */
	uint8_t flags, ecn;
	uint16_t window; /* as on the wire */
	uint32_t len, tsval, tsecr, stream;
	bool no_ts, bad_sum;
};

/* Build it into @frame (LAB_FRAME bytes); returns its length. */
static inline uint32_t lab_build(struct lab_host *h, struct lab_seg g, uint8_t *frame)
{
	struct wire_template t = h->init.tmpl;
	struct wire_segment w = {.seq = h->init.rcv_base + g.seq,
				 .ack = h->init.snd_base + g.ack,
				 .flags = g.flags ? g.flags : TCP_ACK,
				 .ecn = g.ecn,
				 .window = g.window,
				 .has_ts = h->init.ts && !g.no_ts,
				 .tsval = g.tsval ? g.tsval : 5001,
				 .tsecr = g.tsecr};
	uint8_t payload[LAB_FRAME];
	uint32_t hdr;

	t.key.local = h->init.tmpl.key.remote;
	t.key.remote = h->init.tmpl.key.local;
	t.key.local_port = h->init.tmpl.key.remote_port;
	t.key.remote_port = h->init.tmpl.key.local_port;
	for (uint32_t i = 0; i < g.len; i++)
		payload[i] = lab_byte(g.stream, g.seq + i);
	hdr = wire_header_len(&t, &w);
	wire_build(frame, &t, &w, g.len, csum_copy(0, frame + hdr, payload, g.len));
	if (g.bad_sum)
		frame[hdr - 1 + (g.len != 0)] ^= 0x55;
	return hdr + g.len;
}

static inline void lab_send(struct lab_host *h, struct lab_seg g)
{
	uint8_t frame[LAB_FRAME];
	uint32_t len = lab_build(h, g, frame);

	assert_true(lab_arrive(&h->nic.port, frame, len));
}

/* The oldest frame that @h sent, parsed as its peer would; false: none. */
static inline bool lab_sent(struct lab_host *h, struct segment *s)
{
	static uint8_t copy[LAB_FRAME];
	struct port *p = &h->nic.port;

	if (!p->tx_n)
		return false;
	memcpy(copy, p->tx[0], LAB_FRAME);
	assert_int_equal(wire_parse(copy, p->tx_len[0], false, s), WIRE_TCP);
	assert_true(segment_csum_ok(s, false));
	p->tx_n--;
	memmove(p->tx, p->tx + 1, p->tx_n * sizeof p->tx[0]);
	memmove(p->tx_len, p->tx_len + 1, p->tx_n * sizeof p->tx_len[0]);
	s->seq -= h->init.snd_base;
	s->ack -= h->init.rcv_base;
	return true;
}

static inline uint64_t lab_counter(struct lab_host *h, enum counter_id id)
{
	return counter_get(&h->t->counters, id);
}

#endif
