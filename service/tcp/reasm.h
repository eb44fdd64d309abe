/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reassembly arithmetic: one interval of data that arrived out of order. It says which
 * bytes of a segment to store and how far the stream is complete now; it touches no payload.
 * Positions are modulo 2^32 and lie within one window (less than 2^30) of each other.
 *
 * The byte received first stays: bytes inside the interval are never stored again, so what
 * was selectively acknowledged cannot change.
 */
#ifndef SERVICE_TCP_REASM_H
#define SERVICE_TCP_REASM_H

#include <stdbool.h>
#include <stdint.h>

struct reasm {
	uint32_t start, end; /* equal: no interval */
};

struct reasm_piece {
	uint32_t start, end;
};

struct reasm_result {
	struct reasm_piece store[2]; /* bytes to keep, in order, disjoint */
	unsigned stores;
	uint32_t next; /* first byte still missing */
	bool filled;   /* a gap was closed, wholly or in part: acknowledge at once */
	bool ooo;      /* kept out of order */
	bool refused;  /* out of order and does not touch the interval: not kept */
};

static inline bool reasm_empty(const struct reasm *r)
{
	return r->start == r->end;
}

/* A segment covers [start, end), already cut to the window; @next is RCV.NXT; seq_gt(end, next). */
void reasm_segment(struct reasm *r, uint32_t next, uint32_t start, uint32_t end, struct reasm_result *out);

#endif
