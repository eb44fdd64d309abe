/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SipHash-2-4 (Aumasson, Bernstein), the keyed hash that keeps chosen tuples from colliding. */
#ifndef SERVICE_BASE_HASH_H
#define SERVICE_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash_key {
	uint64_t k0, k1;
};

/* A key from getrandom(2). Returns 0 or -errno. */
int hash_key_random(struct hash_key *key);
uint64_t hash_bytes(const struct hash_key *key, const void *data, size_t len);

#endif
