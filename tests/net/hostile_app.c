// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * hostile_app SOCKET IP PORT MODE [SECONDS [SEED]]
 *
 * An application that lies in the memory it shares with the service:
 *   soft      random words over everything that is not a record, while the connections carry data
 *   scribble  random words over all of it
 *   forge     one impossible record after another, each from a new application
 *   bells     every bit of every bell, the doorbell and all armed flags, while data flows
 *   memory    tries to resize, seal, reopen and unmap what it was given, then punches holes into it
 *   stop      stops itself (SIGSTOP) in the middle of a conversation
 *   hasty     ends while its connections are being adopted
 *   die       kills itself at a random moment, connections being adopted, given back, listened on
 */
#define _GNU_SOURCE
#include <pthread.h>

#include "tests/net/hostile.h"

/* ---- soft, scribble, bells ---- */

struct scribbler {
	struct app *app;
	bool records;
	uint64_t rnd;
	pthread_t thread;
};

/* What the service checks or wrote for the application's sake alone: positions, options, contexts. */
static bool is_record(size_t off)
{
	size_t in = (off - offsetof(struct ipc_app, slot)) % sizeof(struct ipc_slot);

	if (off < offsetof(struct ipc_app, slot))
		return false;
	return in < offsetof(struct ipc_slot, fd_plus1) ||
	       (in >= offsetof(struct ipc_slot, rcv_end) && in < offsetof(struct ipc_slot, status));
}

static void *scribble_body(void *arg)
{
	struct scribbler *s = arg;
	struct app *a = s->app;

	while (!atomic_load(&stop)) {
		uint64_t r = random64(&s->rnd), v = random64(&s->rnd);
		size_t size = r & 1 ? sizeof *a->shm : offsetof(struct ipc_app, slot[CONNS + 1]);
		size_t off = (size_t)(r >> 8) % size & ~7ull;

		if (r & 2)
			v >>= v & 63; /* small ones too */
		if ((r & 0xfc) == 0)
			a->buf[(r >> 8) % (8u << 20)] = (uint8_t)v;
		else if (r & 0x80) /* the number that has no predecessor */
			atomic_store_explicit(&a->shm->slot[(r >> 8) % CONNS].fd_plus1, 0x80000000u,
					      memory_order_relaxed);
		else if (s->records || !is_record(off))
			atomic_store_explicit((_Atomic uint64_t *)((uint8_t *)a->shm + off), v, memory_order_relaxed);
	}
	return NULL;
}

static void scribble(bool records)
{
	struct app a;
	struct conn c[CONNS];
	struct scribbler s[2];
	uint64_t got;

	app_start(&a, c, CONNS);
	for (int i = 0; i < 2; i++) {
		s[i] = (struct scribbler){.app = &a, .records = records, .rnd = random64(&rnd)};
		if (pthread_create(&s[i].thread, NULL, scribble_body, &s[i]))
			die("thread");
	}
	got = carry(&a, c, CONNS, seconds);
	atomic_store(&stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(s[i].thread, NULL);
	say(records ? "scribble" : "soft", "%s %llu", ctl_closed(a.ctl, 50) ? "closed" : "open",
	    (unsigned long long)got);
}

static void mode_soft(void)
{
	scribble(false);
}

static void mode_scribble(void)
{
	scribble(true);
}

static void *bells_body(void *arg)
{
	struct app *a = arg;
	uint64_t one = 1;

	while (!atomic_load(&stop)) {
		for (uint32_t t = 0; t < IPC_THREADS; t++) {
			memset((void *)&a->shm->dirty[t], 0xff, sizeof a->shm->dirty[t]);
			if (write(a->fds[4], &one, sizeof one) < 0)
				continue;
		}
		for (uint32_t i = 0; i < IPC_CONTEXTS; i++) {
			memset((void *)&a->shm->context[i].bell, (int)random64(&rnd), sizeof a->shm->context[i].bell);
			atomic_store(&a->shm->context[i].armed, 1);
		}
	}
	return NULL;
}

static void mode_bells(void)
{
	struct app a;
	struct conn c[CONNS];
	pthread_t t;
	uint64_t got;

	app_start(&a, c, CONNS);
	if (pthread_create(&t, NULL, bells_body, &a))
		die("thread");
	got = carry(&a, c, CONNS, seconds);
	atomic_store(&stop, true);
	pthread_join(t, NULL);
	say("bells", "%s %llu", ctl_closed(a.ctl, 50) ? "closed" : "open", (unsigned long long)got);
}

/* ---- forge ---- */

static void forge_one(const char *name, struct app *a, struct conn *c)
{
	struct ipc_slot *s = &a->shm->slot[c->slot];
	uint64_t end = atomic_load(&s->snd_end), acked = atomic_load(&s->snd_acked), got = atomic_load(&s->rcv_end);

	if (!strcmp(name, "send-back"))
		atomic_store(&s->snd_end, end - 1);
	else if (!strcmp(name, "send-too-much"))
		atomic_store(&s->snd_end, acked + c->tx_size + (64u << 20));
	else if (!strcmp(name, "send-wraps"))
		atomic_store(&s->snd_end, UINT64_MAX - 1);
	else if (!strcmp(name, "send-sign"))
		atomic_store(&s->snd_end, 1ull << 63);
	else if (!strcmp(name, "send-4g"))
		atomic_store(&s->snd_end, end + (1ull << 32));
	else if (!strcmp(name, "send-frozen"))
		atomic_store(&s->snd_end, end | IPC_FROZEN);
	else if (!strcmp(name, "read-back"))
		atomic_store(&s->rcv_read, atomic_load(&s->rcv_read) - 1);
	else if (!strcmp(name, "read-ahead"))
		atomic_store(&s->rcv_read, got + (1u << 30));
	else if (!strcmp(name, "read-wraps"))
		atomic_store(&s->rcv_read, UINT64_MAX);
	else if (!strcmp(name, "context"))
		atomic_store(&s->context, IPC_CONTEXTS);
	else if (!strcmp(name, "context-max"))
		atomic_store(&s->context, UINT32_MAX);
	else if (!strcmp(name, "opts"))
		atomic_store(&s->opts, 1u << 31);
	else if (!strcmp(name, "want"))
		atomic_store(&s->want, 0xfffffffe);
	else if (!strcmp(name, "status-dead"))
		atomic_store(&s->status, IPC_DEAD | IPC_ST_ERROR);
	else if (!strcmp(name, "other-slots-fast"))
		for (uint32_t i = CONNS; i < IPC_SLOTS; i++) {
			atomic_store(&a->shm->slot[i].status, IPC_FAST);
			atomic_store(&a->shm->slot[i].snd_end, UINT64_MAX);
			bell_ring(&a->shm->dirty[c->thread], i);
		}
	app_ring(a, c);
}

static void mode_forge(void)
{
	static const char *const names[] = {"send-back",   "send-too-much", "send-wraps",
					    "send-sign",   "send-4g",       "read-back",
					    "send-frozen", "read-ahead",    "read-wraps",
					    "context",     "opts",          "context-max",
					    "want",        "status-dead",   "other-slots-fast"};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		struct app a;
		struct conn c[2];

		app_start(&a, c, 2);
		/* what came has been read, the service has seen that, and nothing else changes */
		usleep(10000);
		atomic_store(&a.shm->slot[c[0].slot].rcv_read, atomic_load(&a.shm->slot[c[0].slot].rcv_end));
		app_ring(&a, &c[0]);
		usleep(10000);
		forge_one(names[i], &a, &c[0]);
		say(names[i], ctl_closed(a.ctl, 200) ? "closed" : "open");
		close(c[0].fd);
		close(c[1].fd);
		app_close(&a);
	}
}

/* ---- memory ---- */

static void memory_write_shared(const char *name, int fd, bool may_map)
{
	char path[64];
	int again;
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	if (again >= 0 && p == MAP_FAILED)
		p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
	say(name, "%s", (p != MAP_FAILED) != may_map ? "broken" : "ok");
	if (!may_map)
		say(name, "%s", again >= 0 && write(again, "x", 1) == 1 ? "broken" : "ok");
}

static void mode_memory(void)
{
	struct app a;
	struct conn c[CONNS];
	double end;

	app_start(&a, c, CONNS);
	for (int i = 0; i < 3; i++) {
		say("shrink", ftruncate(a.fds[i], 4096) ? "ok" : "broken");
		say("grow", ftruncate(a.fds[i], 1ll << 40) ? "ok" : "broken");
		say("extend", fallocate(a.fds[i], 0, 1ll << 40, 4096) ? "ok" : "broken");
		say("seal", fcntl(a.fds[i], F_ADD_SEALS, F_SEAL_WRITE) ? "ok" : "broken");
	}
	memory_write_shared("page", a.fds[2], false);
	memory_write_shared("words", a.fds[3], false);
	end = now() + seconds;
	while (now() < end) {
		fallocate(a.fds[1], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 64 << 20);
		carry(&a, c, CONNS, 0.001);
	}
	/* and its own control memory: the bells and all slots are gone, offsets are 0 */
	fallocate(a.fds[0], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, sizeof *a.shm);
	app_ring(&a, &c[0]);
	say("memory", ctl_closed(a.ctl, 300) ? "closed" : "open");
}

/* ---- stop, die ---- */

static void mode_stop(void)
{
	struct app a;
	struct conn c[CONNS];

	app_start(&a, c, CONNS);
	say("stopping", "now");
	raise(SIGSTOP);
	say("stop", "%llu", (unsigned long long)carry(&a, c, CONNS, 0.2));
}

static void mode_hasty(void)
{
	struct app a;

	app_open(&a);
	for (uint32_t i = 0; i < 16; i++)
		adopt_ask(&a, i, tcp_connect(0));
	for (int i = 0; i < 200 && atomic_load(&a.shm->slot[0].status) == IPC_ADOPTING; i++)
		usleep(100);
	say("hasty", "%u", IPC_STATE(atomic_load(&a.shm->slot[0].status)));
}

static void *die_body(void *arg)
{
	usleep((useconds_t)(random64(arg) % 60000));
	kill(getpid(), SIGKILL);
	return NULL;
}

static void mode_die(void)
{
	struct app a;
	struct conn c[CONNS];
	uint64_t seed = rnd;
	pthread_t t;

	app_start(&a, c, CONNS);
	if (pthread_create(&t, NULL, die_body, &seed))
		die("thread");
	for (uint32_t i = 0;; i++) {
		int fd = tcp_connect(0);

		adopt_ask(&a, 100 + i, fd);
		adopt_ask(&a, 1100 + i, fd);
		request(a.ctl, IPC_MSG_LISTEN, i, 0, 0, 0, fd);
		if (i & 1)
			request(a.ctl, IPC_MSG_RETURN, 2100 + i, (uint64_t)fd, 0, 0, fd);
		carry(&a, c, CONNS, 0.001);
	}
}

int main(int argc, char **argv)
{
	static const struct mode modes[] = {
		{"soft", mode_soft},     {"scribble", mode_scribble}, {"forge", mode_forge}, {"bells", mode_bells},
		{"memory", mode_memory}, {"stop", mode_stop},         {"hasty", mode_hasty}, {"die", mode_die},
	};

	return hostile_main(argc, argv, modes, sizeof modes / sizeof *modes);
}
