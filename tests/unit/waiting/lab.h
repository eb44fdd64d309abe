/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the cases of waiting/ share: pairs of connections, waits that say what came, something that happens later. */
#ifndef TESTS_UNIT_WAITING_LAB_H
#define TESTS_UNIT_WAITING_LAB_H

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAUSE 60 /* ms */
#define LONG 20000
#define MAX 64

/* A case: its name goes into the list in main.c, too. */
#define CASE(name) void case_##name(void)
#define CHECK(x) check(x, __FILE__, __LINE__)

struct pair {
	int c, s; /* connected to each other */
};

/* Something that happens while the caller sleeps. */
struct later {
	pthread_t thread;
	int fd, ms;
	void (*act)(int fd);
};

void check(bool ok, const char *file, int line);
void pause_ms(int ms);
struct pair pair_cold(void);
/* Exchange enough for both ends to be adopted. */
void warm(struct pair p);
struct pair pair_new(void);
void put(int fd, const char *text);
void drain(int fd);
const char *result(int n);
int add(int ep, int fd, uint32_t events, uint64_t data);
int mod(int ep, int fd, uint32_t events, uint64_t data);
/* Wait and print what came, in order of data. */
int look(const char *what, int ep, int max, int ms);
/* As look(), in as many calls as it takes: adopted and other sockets need not come together. */
void gather(const char *what, int ep, int want);
void look_poll(const char *what, struct pollfd *p, nfds_t n, int ms);
void act_send(int fd);
void act_close(int fd);
void act_shutdown(int fd);
void act_drain(int fd);
void later(struct later *l, void (*act)(int), int fd);
void joined(struct later *l);

#endif
