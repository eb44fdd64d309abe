// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * hostile_local SOCKET IP PORT MODE [SECONDS [SEED]]
 *
 * One end of local connections, the other end of which is an honest program's:
 *   look     asks the service to look at every slot there is, as fast as it can, while data flow
 *   under    changes the bytes of its rings while they are copied
 *   drained  says that it reads no more in the kernel, and does not, although bytes lie there
 *   early    writes, forges and closes before and while its connections become FAST
 *   swing    gives its connections back and asks for them again, words of it changing at random
 *   regions  asks for everybody's common memory, and scribbles on its own while data flow
 *   hide     has its sockets where no process has them, the service neither
 */
#define _GNU_SOURCE
#include <pthread.h>

#include "tests/net/hostile.h"

struct worker {
	struct app *app;
	struct conn *conn;
	uint64_t rnd, count;
	void *arg;
	pthread_t thread;
};

/*
 * Connections of @a, which is started, carry data for the time that is asked for, while @body does its work. Says
 * whether the service still listens to us, what came back, and how often @body did it.
 */
static void run_beside(const char *name, void *(*body)(void *), struct app *a)
{
	struct conn c[CONNS];
	struct worker w = {.app = a, .conn = c, .rnd = rnd};
	uint64_t got;

	app_start(a, c, CONNS);
	if (pthread_create(&w.thread, NULL, body, &w))
		die("thread");
	got = carry(a, c, CONNS, seconds);
	atomic_store(&stop, true);
	pthread_join(w.thread, NULL);
	say(name, "%s %llu %llu", ctl_closed(a->ctl, 50) ? "closed" : "open", (unsigned long long)got,
	    (unsigned long long)w.count);
}

/* ---- look, under ---- */

static void *look_body(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(&stop)) {
		uint64_t slot = w->count % 2 ? w->count / 2 % CONNS : random64(&w->rnd) % IPC_SLOTS;

		if (!request(w->app->ctl, IPC_MSG_LOOK, slot, random64(&w->rnd), 0, 0, -1))
			break;
		w->count++;
	}
	return NULL;
}

static void mode_look(void)
{
	struct app a;

	run_beside("look", look_body, &a);
	request(a.ctl, IPC_MSG_LOOK, IPC_SLOTS, 0, 0, 0, -1);
	say("look-range", ctl_closed(a.ctl, 300) ? "closed" : "open");
}

static void *under_body(void *arg)
{
	struct worker *w = arg;

	for (; !atomic_load(&stop); w->count++) {
		const struct conn *c = &w->conn[w->count % CONNS];
		uint64_t off = w->count & 8 ? c->tx_off : c->rx_off;

		memset(w->app->buf + off + random64(&w->rnd) % (c->tx_size / 2), (int)w->count, c->tx_size / 2);
	}
	return NULL;
}

static void mode_under(void)
{
	struct app a;

	run_beside("under", under_body, &a);
}

/* ---- regions ---- */

#define REGIONS 3000

/* The answer's descriptor, or -1. */
static int region_ask(struct app *a, uint64_t id, uint64_t *size)
{
	int fds[IPC_MSG_FDS], n = 0;
	struct ipc_msg m;

	if (!request(a->ctl, IPC_MSG_REGION, id, random64(&rnd), 0, 0, -1) || ctl_recv(a->ctl, &m, fds, &n) <= 0)
		die("region");
	*size = m.arg[1];
	while (n > 1)
		close(fds[--n]);
	return n ? fds[0] : -1;
}

struct mine {
	uint8_t *map;
	size_t size;
};

static void *scribble_body(void *arg)
{
	struct worker *w = arg;
	struct mine m = *(struct mine *)w->arg;

	for (; !atomic_load(&stop); w->count++)
		memset(m.map + random64(&w->rnd) % (m.size - 65536), (int)w->count, 65536);
	return NULL;
}

static void mode_regions(void)
{
	struct app a;
	struct conn c[CONNS];
	struct worker w = {.app = &a, .conn = c, .rnd = rnd};
	struct mine mine = {.map = MAP_FAILED};
	uint32_t own = 0, foreign = 0;
	uint64_t size;

	app_start(&a, c, CONNS);
	for (uint64_t id = 0; id < REGIONS; id++) {
		int fd = region_ask(&a, id, &size);

		if (fd < 0)
			continue;
		if (id != a.shm->slot[c[0].slot].rx_region || !size || lseek(fd, 0, SEEK_END) != (off_t)size ||
		    !ftruncate(fd, 0)) {
			foreign++;
		} else {
			mine.size = 8u << 20; /* where rings are: more would only take memory */
			mine.map = mmap(NULL, mine.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			own++;
		}
		close(fd);
	}
	if (mine.map != MAP_FAILED) {
		w.arg = &mine;
		if (pthread_create(&w.thread, NULL, scribble_body, &w))
			die("thread");
	}
	carry(&a, c, CONNS, seconds);
	atomic_store(&stop, true);
	if (mine.map != MAP_FAILED)
		pthread_join(w.thread, NULL);
	say("regions", "%u %u %llu", own, foreign, (unsigned long long)w.count);
	request(a.ctl, IPC_MSG_REGION, 1ull << 32, 0, 0, 0, -1);
	say("regions-range", ctl_closed(a.ctl, 300) ? "closed" : "open");
}

/* ---- drained ---- */

/* What lies in the kernel's queue is taken for written past the other one's library: both go back. */
static void mode_drained(void)
{
	struct app a;
	struct conn c[CONNS];
	char bytes[5000] = {0};

	app_start(&a, c, CONNS);
	for (int i = 0; i < CONNS; i++) {
		if (send(c[i].fd, bytes, sizeof bytes, MSG_NOSIGNAL) <
		    0) /* past the memory, which the echo sees late */
			die("send");
		atomic_store(&a.shm->slot[c[i].slot].opts, IPC_OPT_DRAINED);
		app_ring(&a, &c[i]);
	}
	for (double end = now() + seconds; now() < end;) {
		for (int i = 0; i < CONNS; i++) {
			atomic_fetch_xor(&a.shm->slot[c[i].slot].opts, IPC_OPT_DRAINED | IPC_OPT_CORK);
			request(a.ctl, IPC_MSG_LOOK, c[i].slot, 0, 0, 0, -1);
			conn_carry(&a, &c[i]);
		}
	}
	say("drained", ctl_closed(a.ctl, 50) ? "closed" : "open");
}

/* ---- early ---- */

/* Its record, before the other end is FAST, and anything at all now and then. */
static void early_forge(struct app *a, struct conn *c, uint64_t r)
{
	struct ipc_slot *s = &a->shm->slot[c->slot];

	if (r % 8 == 0)
		atomic_store(&s->snd_end, r >> 8);
	else if (r % 8 == 1)
		atomic_store(&s->rcv_read, (r >> 8) % 100000);
	else
		atomic_store(&s->snd_end, (r >> 8) % 60000);
	atomic_store(&s->opts, (uint32_t)(r >> 24) & IPC_OPT_DRAINED);
	for (uint32_t t = 0; t < a->threads; t++)
		bell_ring(&a->shm->dirty[t], c->slot);
}

/* One connection; returns false if the service has hung up. */
static bool early_one(struct app *a, struct conn *c)
{
	uint32_t at = (uint32_t)(random64(&rnd) % 12);
	struct ipc_slot *s = &a->shm->slot[c->slot];
	double end = now() + 0.3;
	bool ok = true;

	c->fd = tcp_connect(0);
	for (uint32_t i = 0; ok && now() < end; i++) {
		uint32_t status = atomic_load(&s->status), state = IPC_STATE(status);

		if (state != IPC_FAST && state != IPC_ADOPTING && state != IPC_PAUSED)
			ok = adopt_ask(a, c->slot, c->fd);
		if (i >= at)
			early_forge(a, c, random64(&rnd));
		if ((status & IPC_ST_PAIRED && random64(&rnd) % 4 == 0) || !conn_exchange(a, c))
			break;
	}
	if (random64(&rnd) % 2) /* with a reset */
		setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
	close(c->fd);
	atomic_store(&s->fd_plus1, 0);
	return ok;
}

static void mode_early(void)
{
	double end = now() + seconds;
	uint32_t n = 0;

	while (now() < end) {
		struct conn c = {0};
		struct app a;

		app_open(&a);
		for (c.slot = 0; c.slot < 50 && now() < end && early_one(&a, &c); c.slot++)
			n++;
		app_close(&a);
	}
	say("early", "%u", n);
}

/* ---- swing ---- */

static void *swing_body(void *arg)
{
	struct worker *w = arg;

	for (; !atomic_load(&stop); w->count++) {
		struct ipc_slot *s = &w->app->shm->slot[random64(&w->rnd) % CONNS];
		uint32_t v = (uint32_t)random64(&w->rnd);

		atomic_store(v & 1 ? &s->busy : &s->mark_snd, v >> 8);
		s->rx_off = v;
		s->rx_size = v;
		atomic_store(&s->reason, v);
		atomic_store(&s->invited, v);
	}
	return NULL;
}

static void mode_swing(void)
{
	struct app a;
	struct conn c[CONNS];
	struct worker w = {.app = &a, .conn = c, .rnd = rnd};
	double end = now() + seconds;
	uint32_t n = 0;

	app_start(&a, c, CONNS);
	if (pthread_create(&w.thread, NULL, swing_body, &w))
		die("thread");
	for (; now() < end; n++) {
		struct conn *k = &c[n % CONNS];
		struct ipc_slot *s = &a.shm->slot[k->slot];

		conn_carry(&a, k);
		if (!request(a.ctl, IPC_MSG_RETURN, k->slot, (uint64_t)k->fd, 1, 0, k->fd))
			break;
		for (double t = now() + 0.2; now() < t && IPC_STATE(atomic_load(&s->status)) != IPC_RETURNED;)
			conn_carry(&a, k);
		conn_pair(&a, k); /* in vain if bytes of it are on the way, which nobody takes */
		k->snd_end = atomic_load(&s->snd_end) & ~IPC_FROZEN;
	}
	atomic_store(&stop, true);
	pthread_join(w.thread, NULL);
	say("swing", "%s %u", ctl_closed(a.ctl, 50) ? "closed" : "open", n);
}

/* ---- hide ---- */

/* A descriptor on its way in a message that nobody reads is in no process. */
static void mode_hide(void)
{
	struct app a;
	struct conn c[CONNS];
	int way[2];

	app_start(&a, c, CONNS);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, way))
		die("socketpair");
	for (int i = 0; i < CONNS; i++) {
		if (!ctl_send(way[0], "x", 1, &c[i].fd, 1))
			die("pass");
		close(c[i].fd);
	}
	say("hidden", "now");
	usleep((useconds_t)(seconds * 1e6));
	say("hide", ctl_closed(a.ctl, 50) ? "closed" : "open");
}

int main(int argc, char **argv)
{
	static const struct mode modes[] = {
		{"look", mode_look},   {"under", mode_under}, {"drained", mode_drained}, {"early", mode_early},
		{"swing", mode_swing}, {"hide", mode_hide},   {"regions", mode_regions},
	};

	return hostile_main(argc, argv, modes, sizeof modes / sizeof *modes);
}
