/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Log-linear histogram of nanoseconds: 128 steps per power of two, error below 0.8 %. */
#ifndef TESTS_BENCH_HIST_H
#define TESTS_BENCH_HIST_H
#include <stdint.h>
#include <string.h>
#define HSUB 7
struct hist {
	uint64_t n, max;
	double sum;
	uint32_t v[(44 - HSUB) << HSUB];
};

static inline void hist_add(struct hist *h, uint64_t x)
{
	uint32_t e = x >> HSUB ? (uint32_t)(63 - HSUB - __builtin_clzll(x)) + 1 : 0;
	uint32_t i = e ? (e << HSUB) + (uint32_t)((x >> (e - 1)) & ((1 << HSUB) - 1)) : (uint32_t)x;
	h->v[i < sizeof h->v / sizeof *h->v ? i : sizeof h->v / sizeof *h->v - 1]++;
	h->n++;
	h->sum += (double)x;
	if (x > h->max)
		h->max = x;
}
static inline double hist_q(const struct hist *h, double pct)
{
	uint64_t want = (uint64_t)(pct / 100 * (double)h->n + 0.5), seen = 0;
	for (uint32_t i = 0; i < sizeof h->v / sizeof *h->v && h->n; i++)
		if ((seen += h->v[i]) >= (want ? want : 1)) {
			uint32_t e = i >> HSUB;
			double lo = e ? (double)((uint64_t)((i & ((1 << HSUB) - 1)) | 1 << HSUB) << (e - 1)) : i;
			double mid = lo + (e > 1 ? (double)(1ULL << (e - 2)) : 0);
			return mid < (double)h->max ? mid : (double)h->max;
		}
	return 0;
}
#endif
