/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The flow table: the first step of a received segment after parsing. Fast thread only;
 * nothing is allocated after flow_table_open(). Invariant: between an entry's home and the
 * entry itself no place is empty.
 */
#include "service/fast/flow_table.h"

#include <errno.h>
#include <sys/mman.h>

#include "service/base/addr.h"

static uint32_t flow_table_home(const struct flow_table *t, const struct flow_key *key)
{
	return (uint32_t)hash_bytes(&t->hash, key, sizeof *key) & t->mask;
}

int flow_table_open(struct flow_table *t, uint32_t max_flows, const struct hash_key *hash)
{
	uint32_t size = 16;
	void *m;

	if (!max_flows || max_flows > 1u << 24)
		return -EINVAL;
	while (size < max_flows * 2)
		size *= 2;
	m = mmap(NULL, size * sizeof *t->entry, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED)
		return -ENOMEM;
	*t = (struct flow_table){.entry = m, .mask = size - 1, .max = max_flows, .hash = *hash};
	return 0;
}

void flow_table_close(struct flow_table *t)
{
	if (t->entry)
		munmap(t->entry, (t->mask + 1ul) * sizeof *t->entry);
	t->entry = NULL;
}

/* The entry with @key, or the empty one where it would go. */
static uint32_t flow_table_seek(const struct flow_table *t, const struct flow_key *key)
{
	uint32_t i = flow_table_home(t, key);

	while (t->entry[i].flow_plus1 && !flow_key_equal(&t->entry[i].key, key))
		i = (i + 1) & t->mask;
	return i;
}

uint32_t flow_table_find(const struct flow_table *t, const struct flow_key *key)
{
	return t->entry[flow_table_seek(t, key)].flow_plus1 - 1;
}

int flow_table_add(struct flow_table *t, const struct flow_key *key, uint32_t flow)
{
	uint32_t i = flow_table_seek(t, key);

	if (t->entry[i].flow_plus1)
		return -EEXIST;
	if (t->used >= t->max || flow == FLOW_NONE)
		return -ENOSPC;
	t->entry[i] = (struct flow_table_entry){*key, flow + 1};
	t->used++;
	return 0;
}

int flow_table_del(struct flow_table *t, const struct flow_key *key)
{
	uint32_t hole = flow_table_seek(t, key), i = hole;

	if (!t->entry[hole].flow_plus1)
		return -ENOENT;
	for (;;) {
		uint32_t home;

		i = (i + 1) & t->mask;
		if (!t->entry[i].flow_plus1)
			break;
		home = flow_table_home(t, &t->entry[i].key);
		/* It may move to the hole unless its home lies behind the hole. */
		if (((i - home) & t->mask) >= ((i - hole) & t->mask)) {
			t->entry[hole] = t->entry[i];
			hole = i;
		}
	}
	t->entry[hole].flow_plus1 = 0;
	t->used--;
	return 0;
}
