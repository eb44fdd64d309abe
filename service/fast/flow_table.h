/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a 4-tuple to a flow. Open addressing with linear probing under a keyed hash
 * (SipHash), at most half full, sized once; deleting moves the followers back, so there are
 * no tombstones and a look-up's cost depends on nothing that happened before. One thread.
 */
#ifndef SERVICE_FAST_FLOW_TABLE_H
#define SERVICE_FAST_FLOW_TABLE_H

#include <stdint.h>

#include "service/base/flow_key.h"
#include "service/base/hash.h"

#define FLOW_NONE UINT32_MAX

struct flow_table_entry {
	struct flow_key key;
	uint32_t flow_plus1; /* 0: empty */
};

struct flow_table {
	struct flow_table_entry *entry;
	uint32_t mask, used, max;
	struct hash_key hash;
};

int flow_table_open(struct flow_table *t, uint32_t max_flows, const struct hash_key *hash);
void flow_table_close(struct flow_table *t);
/* Returns the flow or FLOW_NONE. */
uint32_t flow_table_find(const struct flow_table *t, const struct flow_key *key);
/* Returns 0, -EEXIST or -ENOSPC. */
int flow_table_add(struct flow_table *t, const struct flow_key *key, uint32_t flow);
/* Returns 0 or -ENOENT. */
int flow_table_del(struct flow_table *t, const struct flow_key *key);

#endif
