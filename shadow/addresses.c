/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The set of this host's own addresses: a sorted array, as it is small and rarely changes. Main thread. */
#include "shadow/addresses.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ADDRESSES_FIRST 16

static int address_compare(const struct address *a, const struct ip_addr *addr, int ifindex)
{
	int d = memcmp(&a->addr, addr, sizeof *addr);

	return d ? d : (a->ifindex > ifindex) - (a->ifindex < ifindex);
}

/* Index of the first element that is not less. */
static size_t addresses_find(const struct addresses *s, const struct ip_addr *addr, int ifindex)
{
	size_t lo = 0, hi = s->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (address_compare(&s->v[mid], addr, ifindex) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int addresses_add(struct addresses *s, const struct ip_addr *addr, int ifindex)
{
	size_t i = addresses_find(s, addr, ifindex);

	if (i < s->n && !address_compare(&s->v[i], addr, ifindex))
		return 0;
	if (s->n == s->room) {
		size_t room = s->room ? s->room * 2 : ADDRESSES_FIRST;
		struct address *v = reallocarray(s->v, room, sizeof *v);

		if (!v)
			return -ENOMEM;
		s->v = v;
		s->room = room;
	}
	memmove(&s->v[i + 1], &s->v[i], (s->n - i) * sizeof *s->v);
	s->v[i] = (struct address){.addr = *addr, .ifindex = ifindex};
	s->n++;
	return 1;
}

bool addresses_remove(struct addresses *s, const struct ip_addr *addr, int ifindex)
{
	size_t i = addresses_find(s, addr, ifindex);

	if (i == s->n || address_compare(&s->v[i], addr, ifindex))
		return false;
	s->n--;
	memmove(&s->v[i], &s->v[i + 1], (s->n - i) * sizeof *s->v);
	return true;
}

bool addresses_have(const struct addresses *s, const struct ip_addr *addr)
{
	size_t i = addresses_find(s, addr, 0);

	return i < s->n && !memcmp(&s->v[i].addr, addr, sizeof *addr);
}

void addresses_free(struct addresses *s)
{
	free(s->v);
	*s = (struct addresses){0};
}
