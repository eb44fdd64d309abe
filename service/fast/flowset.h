/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A set of flows as a two-level bitmap: adding and taking cost a bit, with no list and no
 * lock. One thread. The words are the owner's memory (flowset_words() of them).
 */
#ifndef SERVICE_FAST_FLOWSET_H
#define SERVICE_FAST_FLOWSET_H

#include <stdbool.h>
#include <stdint.h>

struct flowset {
	uint64_t *summary; /* bit w: word w is not zero */
	uint64_t *word;
	uint32_t words, summaries;
};

#define FLOWSET_NONE UINT32_MAX

static inline uint32_t flowset_words(uint32_t flows)
{
	uint32_t words = (flows + 63) / 64;

	return words + (words + 63) / 64;
}

/* @memory: flowset_words(@flows) zeroed words. */
static inline void flowset_init(struct flowset *s, uint64_t *memory, uint32_t flows)
{
	s->words = (flows + 63) / 64;
	s->summaries = (s->words + 63) / 64;
	s->word = memory;
	s->summary = memory + s->words;
}

static inline void flowset_add(struct flowset *s, uint32_t i)
{
	s->word[i / 64] |= 1ull << (i % 64);
	s->summary[i / 4096] |= 1ull << (i / 64 % 64);
}

static inline void flowset_del(struct flowset *s, uint32_t i)
{
	s->word[i / 64] &= ~(1ull << (i % 64));
	if (!s->word[i / 64])
		s->summary[i / 4096] &= ~(1ull << (i / 64 % 64));
}

static inline bool flowset_has(const struct flowset *s, uint32_t i)
{
	return s->word[i / 64] >> (i % 64) & 1;
}

static inline bool flowset_any(const struct flowset *s)
{
	for (uint32_t k = 0; k < s->summaries; k++)
		if (s->summary[k])
			return true;
	return false;
}

/* The first member >= @from, or FLOWSET_NONE. */
static inline uint32_t flowset_next(const struct flowset *s, uint32_t from)
{
	uint32_t w = from / 64, k;
	uint64_t bits;

	if (w >= s->words)
		return FLOWSET_NONE;
	bits = s->word[w] & (~0ull << (from % 64));
	if (bits)
		return w * 64 + (uint32_t)__builtin_ctzll(bits);
	if (++w >= s->words)
		return FLOWSET_NONE;
	bits = s->summary[w / 64] & (~0ull << (w % 64));
	for (k = w / 64; !bits;) {
		if (++k >= s->summaries)
			return FLOWSET_NONE;
		bits = s->summary[k];
	}
	w = k * 64 + (uint32_t)__builtin_ctzll(bits);
	return w * 64 + (uint32_t)__builtin_ctzll(s->word[w]);
}

#endif
