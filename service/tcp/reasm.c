/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the bytes of a segment go (RFC 9293 3.10.7.4, "seventh, process the segment text"),
 * with room for one interval beyond RCV.NXT. Called by the fast path between the checks of a
 * segment and the copy of its payload. Pure. Invariant: the interval, if any, begins after
 * RCV.NXT and is contiguous.
 */
#include "service/tcp/reasm.h"

#include "service/tcp/seq.h"

static void reasm_store(struct reasm_result *out, uint32_t start, uint32_t end)
{
	if (seq_lt(start, end))
		out->store[out->stores++] = (struct reasm_piece){start, end};
}

static void reasm_in_order(struct reasm *r, uint32_t start, uint32_t end, struct reasm_result *out)
{
	out->next = end;
	if (reasm_empty(r)) {
		reasm_store(out, start, end);
		return;
	}
	out->filled = true;
	if (seq_lt(end, r->start)) {
		reasm_store(out, start, end);
		return;
	}
	reasm_store(out, start, r->start);
	if (seq_gt(end, r->end))
		reasm_store(out, r->end, end);
	else
		out->next = r->end;
	r->start = r->end = 0;
}

void reasm_segment(struct reasm *r, uint32_t next, uint32_t start, uint32_t end, struct reasm_result *out)
{
	*out = (struct reasm_result){.next = next};
	if (seq_leq(start, next)) {
		reasm_in_order(r, next, end, out);
		return;
	}
	if (reasm_empty(r)) {
		reasm_store(out, start, end);
		*r = (struct reasm){start, end};
		out->ooo = true;
		return;
	}
	if (seq_gt(start, r->end) || seq_lt(end, r->start)) {
		out->refused = true;
		return;
	}
	if (seq_lt(start, r->start)) {
		reasm_store(out, start, r->start);
		r->start = start;
	}
	if (seq_gt(end, r->end)) {
		reasm_store(out, r->end, end);
		r->end = end;
	}
	out->ooo = out->stores != 0;
}
