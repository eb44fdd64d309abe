// SPDX-License-Identifier: GPL-2.0-or-later
/* What the cases about epoll share: sets, and what is said of them. */
#ifndef TESTS_POSIX_SET_H
#define TESTS_POSIX_SET_H

#include <sys/epoll.h>

#include "tests/posix/posix.h"

int set_new(void);
long set_ctl(int ep, int op, int fd, uint32_t events, uint64_t data);
/* The events, by their data, in one line. */
int set_wait(int ep, int ms);
void set_read(int fd, size_t n);
void set_feed(const struct conn *c, const char *text);

#endif
