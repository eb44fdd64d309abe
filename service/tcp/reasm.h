/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reassembly arithmetic: a few intervals of data that arrived out of order. It says which
 * bytes of a segment to store and how far the stream is complete now; it touches no payload.
 * Positions are modulo 2^32 and lie within one window (less than 2^30) of each other.
 *
 * The byte received first stays: bytes inside an interval are never stored again, so what
 * was selectively acknowledged cannot change.
 */
#ifndef SERVICE_TCP_REASM_H
#define SERVICE_TCP_REASM_H

#include <stdbool.h>
#include <stdint.h>

#define REASM_PIECES 8 /* intervals at most: what lies apart from all of them is refused then */
#define REASM_STORES 4 /* a segment that would fill more gaps than this is cut */

struct reasm_piece {
	uint32_t start, end;
};

/* Beside it, elsewhere in memory, as it is rarely looked at: struct reasm_piece[REASM_PIECES], ascending, apart. */
struct reasm {
	uint32_t count;
	uint32_t latest; /* the one that changed last, if there is any */
};

struct reasm_result {
	struct reasm_piece store[REASM_STORES]; /* bytes to keep, in order, disjoint */
	unsigned stores;
	uint32_t next; /* first byte still missing */
	bool filled;   /* a gap was closed, wholly or in part: acknowledge at once */
	bool ooo;      /* kept out of order */
	bool refused;  /* out of order, and there is no room for one interval more: not kept */
};

static inline bool reasm_empty(const struct reasm *r)
{
	return !r->count;
}

/* A segment covers [start, end), already cut to the window; @next is RCV.NXT; seq_gt(end, next). */
void reasm_segment(struct reasm *r, struct reasm_piece *piece, uint32_t next, uint32_t start, uint32_t end,
		   struct reasm_result *out);

/* For an ACK (RFC 2018 4): the interval that changed last, then others from the highest on. Returns how many. */
unsigned reasm_sack(const struct reasm *r, const struct reasm_piece *piece, struct reasm_piece *out, unsigned max);

#endif
