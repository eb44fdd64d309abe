/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the bytes of a segment go (RFC 9293 3.10.7.4, "seventh, process the segment text"),
 * with room for some intervals beyond RCV.NXT. Called by the fast path between the checks of a
 * segment and the copy of its payload. Pure. Invariant: the intervals begin after RCV.NXT, in
 * ascending order, and do not touch each other.
 */
#include "service/tcp/reasm.h"

#include <string.h>

#include "service/tcp/seq.h"

/* Keep [start, end). False: there is no room for one piece more. */
static bool reasm_store(struct reasm_result *out, uint32_t start, uint32_t end)
{
	if (seq_geq(start, end))
		return true;
	if (out->stores == REASM_STORES)
		return false;
	out->store[out->stores++] = (struct reasm_piece){start, end};
	return true;
}

/* The intervals from @first on that end before @last go. */
static void reasm_delete(struct reasm *r, struct reasm_piece *piece, uint32_t first, uint32_t last)
{
	memmove(piece + first, piece + last, (r->count - last) * sizeof(*piece));
	r->count -= last - first;
}

static void reasm_insert(struct reasm *r, struct reasm_piece *piece, uint32_t at, uint32_t start, uint32_t end)
{
	memmove(piece + at + 1, piece + at, (r->count - at) * sizeof(*piece));
	piece[at] = (struct reasm_piece){start, end};
	r->count++;
	r->latest = at;
}

void reasm_segment(struct reasm *r, struct reasm_piece *piece, uint32_t next, uint32_t start, uint32_t end,
		   struct reasm_result *out)
{
	bool in_order = seq_leq(start, next);
	uint32_t at = in_order ? next : start, first = 0, last;

	*out = (struct reasm_result){.next = next, .filled = in_order && r->count};
	while (first < r->count && seq_lt(piece[first].end, at))
		first++;
	/* those that it covers or touches are [first, last); @at: so far the bytes are there */
	for (last = first; last < r->count && seq_leq(piece[last].start, end); last++) {
		if (!reasm_store(out, at, piece[last].start))
			break;
		at = piece[last].end;
	}
	if (!in_order && last == first && r->count == REASM_PIECES) {
		out->refused = true;
		return;
	}
	if (seq_lt(at, end) && (last == r->count || seq_lt(end, piece[last].start)) && reasm_store(out, at, end))
		at = end;
	if (in_order) {
		out->next = at;
		reasm_delete(r, piece, 0, last);
		r->latest = r->latest >= last ? r->latest - last : 0;
		return;
	}
	out->ooo = out->stores != 0;
	if (last == first) {
		reasm_insert(r, piece, first, start, at);
		return;
	}
	piece[first] = (struct reasm_piece){seq_lt(start, piece[first].start) ? start : piece[first].start, at};
	reasm_delete(r, piece, first + 1, last);
	r->latest = first;
}

unsigned reasm_sack(const struct reasm *r, const struct reasm_piece *piece, struct reasm_piece *out, unsigned max)
{
	unsigned n = 0;

	if (r->count)
		out[n++] = piece[r->latest];
	for (uint32_t i = r->count; i-- > 0 && n < max;)
		if (i != r->latest)
			out[n++] = piece[i];
	return n;
}
