/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bell: a set of small integers ("flow i has news") that any number of threads and
 * processes may add to and take from, in memory that one side does not trust.
 *
 * It stands where other designs have a ring of records. The news itself (absolute stream
 * offsets, flags) lives in the flow's slot; the bell only says where to look. So adding is
 * idempotent, nothing overflows, and a thread may be killed, or leave by longjmp from a
 * signal handler, between any two instructions: at worst a bit is found late, because
 * every later ring of the same word sets the summary again. Any content is harmless: the
 * taker looks at slots it has checked itself.
 *
 * Ordering: bell_ring() is a full barrier after the news was stored; bell_take() acquires
 * before the taker reads the news. A sleeper sets its armed flag, issues a full fence and
 * looks at the bell once more (bell_any); a ringer reads the armed flag after bell_ring().
 */
#ifndef SERVICE_IPC_BELL_H
#define SERVICE_IPC_BELL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define BELL_MAX 16384 /* members 0 .. BELL_MAX-1 */
#define BELL_WORDS (BELL_MAX / 64)
#define BELL_SUMMARY (BELL_WORDS / 64)

struct bell {
	_Alignas(64) _Atomic uint64_t summary[BELL_SUMMARY]; /* bit w: word w may be non-zero */
	_Alignas(64) _Atomic uint64_t word[BELL_WORDS];
};

/* Add @i. Any thread, async-signal-safe. */
static inline void bell_ring(struct bell *b, uint32_t i)
{
	uint32_t w = (i / 64) % BELL_WORDS;
	uint64_t bit = 1ull << (w % 64);

	/* pairs with the exchange of the word in bell_take() */
	atomic_fetch_or_explicit(&b->word[w], 1ull << (i % 64), memory_order_seq_cst);
	/* pairs with the exchange of the summary in bell_take(); the load is ordered after the RMW above */
	if (!(atomic_load_explicit(&b->summary[w / 64], memory_order_seq_cst) & bit))
		atomic_fetch_or_explicit(&b->summary[w / 64], bit, memory_order_seq_cst);
}

/* Does the bell hold anything? Use after a full fence before sleeping. */
static inline bool bell_any(struct bell *b)
{
	for (uint32_t s = 0; s < BELL_SUMMARY; s++)
		if (atomic_load_explicit(&b->summary[s], memory_order_acquire))
			return true;
	return false;
}

/* Take from the words of summary word @s that @mask names; see bell_take(). */
static inline uint32_t bell_take_words(struct bell *b, uint32_t s, uint64_t mask, uint32_t *out, uint32_t max,
				       uint32_t *cursor)
{
	uint32_t n = 0;
	uint64_t sum;

	/* pairs with the fetch_or of the summary in bell_ring() */
	if (!max || !(atomic_load_explicit(&b->summary[s], memory_order_relaxed) & mask))
		return 0;
	sum = atomic_fetch_and_explicit(&b->summary[s], ~mask, memory_order_seq_cst) & mask;
	while (sum && n < max) {
		uint32_t w = s * 64 + (uint32_t)__builtin_ctzll(sum);
		/* pairs with the fetch_or of the word in bell_ring() */
		uint64_t bits = atomic_exchange_explicit(&b->word[w], 0, memory_order_seq_cst);

		while (bits && n < max) {
			out[n++] = w * 64 + (uint32_t)__builtin_ctzll(bits);
			bits &= bits - 1;
		}
		*cursor = bits ? w : w + 1;
		if (bits)
			atomic_fetch_or_explicit(&b->word[w], bits, memory_order_seq_cst);
		else
			sum &= sum - 1;
	}
	if (sum) /* give the rest back */
		atomic_fetch_or_explicit(&b->summary[s], sum, memory_order_seq_cst);
	return n;
}

/*
 * Take up to @max members into @out, word by word from *@cursor on, round to where it began
 * (a word index, kept by the caller so that low members do not starve high ones; @max must be
 * 64 or more for that, as a word is begun again if not all of it was taken). Members not
 * taken stay. Returns how many were taken.
 */
static inline uint32_t bell_take(struct bell *b, uint32_t *out, uint32_t max, uint32_t *cursor)
{
	uint32_t start = *cursor % BELL_WORDS, n = 0;
	uint64_t from = ~0ull << (start % 64);

	for (uint32_t k = 0; k <= BELL_SUMMARY; k++) {
		uint32_t s = (start / 64 + k) % BELL_SUMMARY;
		uint64_t mask = k == 0 ? from : k == BELL_SUMMARY ? ~from : ~0ull;

		n += bell_take_words(b, s, mask, out + n, max - n, cursor);
	}
	return n;
}

#endif
