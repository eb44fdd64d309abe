/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sockets that more than one process holds: after fork, across exec, passed in messages. */
#ifndef PRELOAD_INHERIT_H
#define PRELOAD_INHERIT_H

#include "preload/sock.h"

/* How a socket in SOCK_AWAY gets certain. */
enum claim {
	CLAIM_TAKE,   /* take it over from the process it was inherited from */
	CLAIM_RETURN, /* it was taken over by another process, and we use it again: both through Linux */
};

/* Environment variable for a new image: FD:COOKIE,... of connections that are FAST here. */
#define INHERIT_ENV "TAPAS_FDS"

/* In a forked child: @s is a copy of the parent's. Its descriptors are kept. */
void inherit_child(struct sock *s);
void inherit_forked(void); /* in both, once per fork */
/* Start to find out what became of @s (SOCK_AWAY). s->lock held. It is ADOPTING or LINUX then, or still AWAY: try again. */
void inherit_claim(struct sock *s);
/*
 * @s (SOCK_LINUX) was there before the last fork: has another process had it adopted since? Then it is AWAY.
 */
bool inherit_changed(struct sock *s);
/* About to be adopted: tell relatives to look. */
void inherit_announce(struct sock *s);

void inherit_start(void); /* once, before the first socket */
/* Does an image with this environment load the library, if it loads any? */
bool inherit_library_in(char *const envp[]);
/*
 * What a new image must be told: FD:COOKIE,... of the connections that it inherits and that are not Linux's; with
 * @give_back, or without room, they are given back instead. Returns the length.
 */
size_t inherit_list(char *text, size_t size, bool give_back);

extern uint32_t inherit_generation; /* forks so far; written in fork handlers only */

#endif
