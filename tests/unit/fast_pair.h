/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The stage for local connections: one fast thread, three applications, and two flows that are each other's peer.
 * Included by one test program each, with fast_lab.h.
 */
#ifndef TESTS_UNIT_FAST_PAIR_H
#define TESTS_UNIT_FAST_PAIR_H

#include "fast_lab.h"

#define APPS 3
#define BUF_SIZE (2u << 20)
#define MARK 0xa5 /* in memory that nobody may write to */

/* An application: its memory, and who waits there (context 0). */
struct prog {
	uint32_t id;
	struct ipc_app *shm;
	uint8_t *buf;
	int fd;
};

/* One end: the flow, who receives and who sends, and what is sent. */
struct end {
	struct prog *rx, *tx;
	struct flow_init init;
	uint32_t stream;
};

#define REGION_SIZE 32768u

static struct lab_host *h;
static struct prog prog[APPS];
static uint8_t region[2][REGION_SIZE]; /* that two programs have: init.rx_region and tx_region - 1 */
static struct end a, b;
static uint64_t now;

/* ---- the stage ---- */

static inline bool turn(void)
{
	now += LAB_US;
	return thread_turn(h->t, now);
}

static inline void turns(void)
{
	for (int i = 0; i < 20; i++)
		turn();
}

static inline void quiet(void)
{
	while (lab_up(h, NULL, 0) >= 0)
		;
}

static inline void expect_up(int type, uint32_t flow, uint32_t error)
{
	struct up_flow u;

	assert_int_equal(lab_up(h, &u, sizeof u), type);
	assert_int_equal(u.flow_id, flow);
	assert_int_equal(u.error, error);
}

static inline void command(const struct end *e, enum fast_cmd cmd, uint32_t error, uint32_t value)
{
	struct cmd_flow c = {e->init.flow_id, error, value};

	lab_command(h, cmd, &c, sizeof c);
}

static inline struct ipc_slot *rx_slot(const struct end *e)
{
	return &e->rx->shm->slot[e->init.slot];
}

static inline struct ipc_slot *tx_slot(const struct end *e)
{
	return &e->tx->shm->slot[e->init.split ? e->init.tx_slot : e->init.slot];
}

static inline uint32_t status(const struct end *e)
{
	return atomic_load(&rx_slot(e)->status);
}

static inline uint32_t error(const struct end *e)
{
	return status(e) & IPC_ST_ERROR ? atomic_load(&rx_slot(e)->error) : 0;
}

static inline uint64_t delivered(const struct end *e)
{
	return atomic_load(&rx_slot(e)->rcv_end);
}

static inline void ring(const struct prog *p, uint32_t slot)
{
	bell_ring(&p->shm->dirty[0], slot);
}

static inline uint8_t *tx_buf(const struct end *e)
{
	return (e->init.tx_region ? region[e->init.tx_region - 1] : e->tx->buf) + e->init.tx_off;
}

static inline uint8_t *rx_buf(const struct end *e)
{
	return (e->init.rx_region ? region[e->init.rx_region - 1] : e->rx->buf) + e->init.rx_off;
}

/* @e writes up to @n bytes. Returns how many fitted. */
static inline uint32_t put(struct end *e, uint32_t n)
{
	struct ipc_slot *s = tx_slot(e);
	uint64_t at = atomic_load(&s->snd_end);
	uint32_t size = e->init.tx_size, room = size - (uint32_t)(at - atomic_load(&s->snd_acked));

	n = n < room ? n : room;
	for (uint32_t i = 0; i < n; i++)
		tx_buf(e)[(at + i) & (size - 1)] = lab_byte(e->stream, at + i);
	atomic_store(&s->snd_end, at + n);
	ring(e->tx, (uint32_t)(s - e->tx->shm->slot));
	return n;
}

/* @e reads up to @n bytes: they are what its peer wrote. Returns how many there were. */
static inline uint32_t take(struct end *e, uint32_t n)
{
	struct ipc_slot *s = rx_slot(e);
	uint64_t at = atomic_load(&s->rcv_read), end = delivered(e);
	uint32_t size = e->init.rx_size, peer = e == &a ? b.stream : a.stream;

	n = n < end - at ? n : (uint32_t)(end - at);
	for (uint32_t i = 0; i < n; i++)
		if (rx_buf(e)[(at + i) & (size - 1)] != lab_byte(peer, at + i))
			fail_msg("stream %u differs at %lu", peer, (unsigned long)(at + i));
	atomic_store(&s->rcv_read, at + n);
	ring(e->rx, e->init.slot);
	return n;
}

static inline void install(const struct end *e, uint32_t peer)
{
	struct flow_init i = e->init;

	i.peer = peer;
	lab_command(h, CMD_INSTALL, &i, sizeof i);
}

/* As the slow path does it: the second names the first, which is told. */
static inline void pair(void)
{
	install(&a, FLOW_NONE);
	install(&b, a.init.flow_id);
	command(&a, CMD_PEER, 0, b.init.flow_id);
	turns();
	assert_int_equal(status(&a), IPC_FAST | IPC_ST_PAIRED);
	assert_int_equal(status(&b), IPC_FAST | IPC_ST_PAIRED);
	quiet();
}

/* Both write and read at random, up to @most at once, until both have all. @sent: by a, by b. */
static inline void converse(unsigned seed, uint32_t most, uint64_t sent[2])
{
	uint64_t got[2] = {0};

	sent[0] = sent[1] = 0;
	srand(seed);
	for (int i = 0; i < 20000; i++) {
		struct end *e = rand() % 2 ? &a : &b;

		if (rand() % 3)
			sent[e == &b] += put(e, (uint32_t)rand() % 20000);
		if (rand() % 3)
			got[e == &b] += take(e, (uint32_t)rand() % most);
		if (rand() % 2)
			turn();
	}
	for (int i = 0; i < 20; i++) {
		got[0] += take(&a, 1 << 20);
		got[1] += take(&b, 1 << 20);
		turn();
	}
	assert_true(sent[0] > 1 << 20 && sent[1] > 1 << 20);
	assert_int_equal(got[1], sent[0]);
	assert_int_equal(got[0], sent[1]);
}

static inline void prog_open(struct prog *p, uint32_t id)
{
	struct fast_app add = {.app = id, .buf_size = BUF_SIZE, .doorbell_fd = -1};

	*p = (struct prog){.id = id, .shm = lab_alloc(sizeof *p->shm), .buf = lab_alloc(BUF_SIZE)};
	p->fd = eventfd(0, EFD_NONBLOCK);
	memset(p->buf, MARK, BUF_SIZE);
	add.shm = p->shm;
	add.buf = p->buf;
	for (int i = 0; i < IPC_CONTEXTS; i++)
		add.context_fd[i] = i ? -1 : p->fd;
	lab_command(h, CMD_APP_ADD, &add, sizeof add);
}

static inline void end_init(struct end *e, struct prog *p, uint32_t flow, uint32_t slot, uint8_t us, uint8_t peer)
{
	*e = (struct end){.rx = p, .tx = p, .init = lab_init(us, peer, 0, 0), .stream = flow};
	e->init.flow_id = flow;
	e->init.app = p->id;
	e->init.slot = slot;
	e->init.local = true;
	e->init.peer = FLOW_NONE;
	e->init.tx_off = 1u << 20;
	e->init.opts = 0;
}

/* Rings of four sizes. */
static inline int setup(void **state)
{
	(void)state;
	h = lab_open();
	now = 5000 * LAB_MS;
	for (uint32_t i = 0; i < APPS; i++)
		prog_open(&prog[i], 20 + i);
	end_init(&a, &prog[0], 9, 5, 1, 2);
	end_init(&b, &prog[1], 10, 6, 2, 1);
	a.init.rx_size = 4096;
	a.init.tx_size = 16384;
	b.init.rx_size = 8192;
	b.init.tx_size = 32768;
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < APPS; i++) {
		close(prog[i].fd);
		free(prog[i].shm);
		free(prog[i].buf);
	}
	lab_close(h);
	return 0;
}

static inline void again(void **state)
{
	teardown(state);
	setup(state);
}

static inline bool is_woken(const struct prog *p)
{
	uint64_t n;

	return read(p->fd, &n, sizeof n) == sizeof n;
}

static inline void arm(void)
{
	for (int i = 0; i < APPS; i++) {
		is_woken(&prog[i]);
		atomic_store(&prog[i].shm->context[0].armed, 1);
	}
}

#endif
