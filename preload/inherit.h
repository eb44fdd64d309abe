/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sockets that more than one process holds: after fork, across exec, passed in messages. */
#ifndef PRELOAD_INHERIT_H
#define PRELOAD_INHERIT_H

#include "preload/sock.h"

/* How a socket in SOCK_AWAY gets certain. */
enum claim {
	CLAIM_TAKE, /* take it over from the process it was inherited from */
	CLAIM_RETURN, /* another process took it over, and we use it again: a half that it does not use, or both in Linux */
};

/* Environment variable for a new image: FD:COOKIE,... of the connections it inherits; with a '-' behind: Linux's. */
#define INHERIT_ENV "TAPAS_FDS"

/* In a forked child: @s is a copy of the parent's. Its descriptors are kept. */
void inherit_child(struct sock *s);
void inherit_forked(void); /* a generation ends */
/* Start to find out what became of @s (SOCK_AWAY). s->lock held. It is ADOPTING or LINUX then, or still AWAY: try again. */
void inherit_claim(struct sock *s);
/*
 * Is there what the service puts on the socket of a connection that it has: the shadow's filter (or one of the
 * application's: something that is not there on an ordinary socket), or the hint in place of it?
 */
bool inherit_is_taken(int fd);
/* The service that has put it there is dead. */
void inherit_let_go(int fd);

/* @fd is about to be closed inside libc, and was: see close.c. */
struct sock *close_begin(int fd);
void close_end(struct sock *s);
void shell_child(void);   /* shell.c, in a forked child */
void inherit_start(void); /* once, before the first socket */
/* Does an image with this environment load the library, if it loads any? */
bool inherit_library_in(char *const envp[]);
/* What starts a new image. */
enum inherit_how {
	INHERIT_EXEC,  /* exec: this process, or a vfork child that works in the memory of another */
	INHERIT_SPAWN, /* posix_spawn: libc */
};
/*
 * @from became @to in a child that works in this memory (@key is 0), or will, as @key (file actions) say: the image
 * that it is made for has the connection under that number. It goes back to Linux until then.
 */
void inherit_dup(struct sock *s, int from, int to, const void *key);
/* How many entries will the list for a new image have at most? @key: see inherit_dup(). */
size_t inherit_count(const void *key);
#define INHERIT_ENTRY 30 /* bytes of one */
#define INHERIT_TWINS 16
/*
 * What it must be told, in @text. An image that does not load the library (@loads) gets them as Linux's. Returns the
 * length.
 */
struct inherit_undo {
	uint32_t n;
	struct {
		int fd, same; /* closed; another descriptor of the same socket */
	} twin[INHERIT_TWINS];
};
size_t inherit_list(char *text, size_t size, enum inherit_how how, const void *key, bool loads,
		    struct inherit_undo *undo);
/* exec has failed. Keeps errno. */
void inherit_failed(const struct inherit_undo *undo);

extern _Atomic uint32_t inherit_generation; /* forks so far; written in fork handlers only */

#endif
