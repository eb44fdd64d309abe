// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * middlebox IF_A IF_B [drop=PCT] [dup=PCT] [reorder=PCT] [corrupt=PCT] [delay=US] [seed=N]
 *
 * A bad wire for the tests: every frame that arrives on one interface leaves by the other,
 * unless the seeded dice say drop, twice, one later, or with a byte turned over. delay holds
 * every frame for so long. Writes "ready" when it forwards, and counts at the end (SIGTERM).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

#define QUEUE 16384
#define FRAME 2048
#define REORDER_NS 2000000ull /* a frame that nothing overtakes leaves after this */

struct frame {
	uint64_t due_ns;
	uint32_t len;
	uint8_t data[FRAME];
};

struct side {
	int fd;
	struct frame *queue; /* frames for the other side, in order of arrival */
	uint32_t head, tail;
	struct frame late; /* the one that waits to be overtaken */
	uint64_t in, out, dropped, twice, reordered, corrupted, full;
};

static double drop, dup_pct, reorder, corrupt;
static uint64_t delay_ns, seed = 1;
static volatile sig_atomic_t stop;

static void on_signal(int sig)
{
	(void)sig;
	stop = 1;
}

static void die(const char *what)
{
	fprintf(stderr, "middlebox: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t dice(void) /* xorshift64* */
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return seed * 0x2545f4914f6cdd1dull;
}

static int chance(double pct)
{
	return pct > 0 && (double)(dice() >> 11) / 9007199254740992.0 * 100 < pct;
}

static int side_open(const char *name)
{
	struct sockaddr_ll sa = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
	struct packet_mreq mr = {.mr_type = PACKET_MR_PROMISC};
	int one = 1, size = 8 << 20, fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);

	sa.sll_ifindex = mr.mr_ifindex = (int)if_nametoindex(name);
	if (fd < 0 || !sa.sll_ifindex)
		die(name);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
	if (setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) ||
	    setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &mr, sizeof mr) || bind(fd, (void *)&sa, sizeof sa))
		die(name);
	return fd;
}

static void queue_put(struct side *s, const uint8_t *data, uint32_t len, uint64_t due_ns)
{
	struct frame *f = &s->queue[s->tail % QUEUE];

	if (s->tail - s->head == QUEUE) {
		s->full++;
		return;
	}
	f->due_ns = due_ns;
	f->len = len;
	memcpy(f->data, data, len);
	s->tail++;
}

static void side_take(struct side *s, uint8_t *data, uint32_t len)
{
	uint64_t due = now_ns() + delay_ns;

	s->in++;
	if (chance(drop)) {
		s->dropped++;
		return;
	}
	if (len > 54 && chance(corrupt)) {
		data[34 + dice() % (len - 34)] ^= (uint8_t)(1 + dice() % 255);
		s->corrupted++;
	}
	if (!s->late.len && chance(reorder)) {
		memcpy(s->late.data, data, len);
		s->late.len = len;
		s->late.due_ns = due + REORDER_NS;
		s->reordered++;
		return;
	}
	queue_put(s, data, len, due);
	if (chance(dup_pct)) {
		s->twice++;
		queue_put(s, data, len, due);
	}
	if (s->late.len) {
		queue_put(s, s->late.data, s->late.len, due);
		s->late.len = 0;
	}
}

static void side_receive(struct side *s)
{
	uint8_t data[FRAME];

	for (int i = 0; i < 64; i++) {
		ssize_t n = recv(s->fd, data, sizeof data, 0);

		if (n <= 0)
			break;
		side_take(s, data, (uint32_t)n);
	}
}

/* Send what is due; returns ns until the next is, or -1. */
static int64_t side_send(struct side *s, int to)
{
	uint64_t now = now_ns();

	if (s->late.len && s->late.due_ns <= now) {
		queue_put(s, s->late.data, s->late.len, now);
		s->late.len = 0;
	}
	while (s->head != s->tail) {
		struct frame *f = &s->queue[s->head % QUEUE];

		if (f->due_ns > now)
			return (int64_t)(f->due_ns - now);
		if (send(to, f->data, f->len, MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == ENOBUFS))
			return 100000;
		s->out++;
		s->head++;
	}
	return s->late.len ? (int64_t)(s->late.due_ns - now) : -1;
}

static void option(const char *arg)
{
	static const struct {
		const char *name;
		double *value;
	} pct[] = {{"drop=", &drop}, {"dup=", &dup_pct}, {"reorder=", &reorder}, {"corrupt=", &corrupt}};

	for (size_t i = 0; i < sizeof pct / sizeof *pct; i++)
		if (!strncmp(arg, pct[i].name, strlen(pct[i].name))) {
			*pct[i].value = atof(arg + strlen(pct[i].name));
			return;
		}
	if (!strncmp(arg, "delay=", 6))
		delay_ns = strtoull(arg + 6, NULL, 10) * 1000;
	else if (!strncmp(arg, "seed=", 5))
		seed = strtoull(arg + 5, NULL, 10) * 0x9e3779b97f4a7c15ull + 1;
	else {
		fprintf(stderr, "middlebox: unknown option %s\n", arg);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	static struct side a, b;
	struct side *sides[2] = {&a, &b};
	struct pollfd pf[2];

	if (argc < 3) {
		fprintf(stderr, "usage: middlebox IF_A IF_B [drop=PCT] [dup=PCT] [reorder=PCT] [corrupt=PCT] "
				"[delay=US] [seed=N]\n");
		return 2;
	}
	for (int i = 3; i < argc; i++)
		option(argv[i]);
	for (int i = 0; i < 2; i++) {
		sides[i]->fd = side_open(argv[1 + i]);
		sides[i]->queue = calloc(QUEUE, sizeof *sides[i]->queue);
		if (!sides[i]->queue)
			die("memory");
		pf[i] = (struct pollfd){.fd = sides[i]->fd, .events = POLLIN};
	}
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	puts("ready");
	fflush(stdout);
	while (!stop) {
		int64_t wait = -1;
		struct timespec ts;

		for (int i = 0; i < 2; i++) {
			int64_t w = side_send(sides[i], sides[1 - i]->fd);

			if (w >= 0 && (wait < 0 || w < wait))
				wait = w;
		}
		ts = (struct timespec){wait / 1000000000, wait % 1000000000};
		if (ppoll(pf, 2, wait < 0 ? NULL : &ts, NULL) < 0 && errno != EINTR)
			die("poll");
		side_receive(&a);
		side_receive(&b);
	}
	for (int i = 0; i < 2; i++)
		printf("%s: in %llu out %llu dropped %llu twice %llu reordered %llu corrupted %llu full %llu\n",
		       argv[1 + i], (unsigned long long)sides[i]->in, (unsigned long long)sides[i]->out,
		       (unsigned long long)sides[i]->dropped, (unsigned long long)sides[i]->twice,
		       (unsigned long long)sides[i]->reordered, (unsigned long long)sides[i]->corrupted,
		       (unsigned long long)sides[i]->full);
	return 0;
}
