/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The boundary's checker, fed what an honest application writes and what a hostile one may. */
/* links: service/ipc/record.c service/ipc/reason.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "service/base/compiler.h"
#include "service/ipc/abi.h"

/* 1000 sent of which 400 acknowledged; 500 received of which 300 read; 4096 bytes to transmit from. */
static const struct ipc_bounds bounds = {
	.snd_end = 1000, .rcv_read = 300, .snd_acked = 400, .rcv_end = 500, .tx_size = 4096};

static void table_of_records(void **state)
{
	static const struct {
		struct ipc_record rec;
		int want;
	} table[] = {
		{{1000, 300, 0, 0, 0}, 0}, /* nothing new */
		{{1001, 300, 0, 0, 0}, 0},
		{{4496, 500, 0, 0, 0}, 0},       /* the buffer full, everything read */
		{{4497, 500, 0, 0, 0}, -EPROTO}, /* more than the buffer holds */
		{{4496, 501, 0, 0, 0}, -EPROTO}, /* read what never came */
		{{999, 300, 0, 0, 0}, -EPROTO},  /* back */
		{{1000, 299, 0, 0, 0}, -EPROTO}, /* back */
		{{0, 0, 0, 0, 0}, -EPROTO},      /* memory wiped */
		{{399, 300, 0, 0, 0}, -EPROTO},  /* below what is acknowledged */
		{{UINT64_MAX, 300, 0, 0, 0}, -EPROTO},
		{{1000, UINT64_MAX, 0, 0, 0}, -EPROTO},
		{{1000ull + (1ull << 32), 300, 0, 0, 0}, -EPROTO}, /* the same in 32 bits */
		{{1000, 300ull + (1ull << 32), 0, 0, 0}, -EPROTO},
		{{1ull << 63, 300, 0, 0, 0}, -EPROTO},
		{{1000, 300, IPC_WANT_SPACE, 7, IPC_CONTEXTS - 1}, 0},
		{{1000, 300, 2, 0, 0}, -EPROTO},
		{{1000, 300, UINT32_MAX, 0, 0}, -EPROTO},
		{{1000, 300, 0, 0xffff, 0}, 0},
		{{1000, 300, 0, 0x10000, 0}, -EPROTO},
		{{1000, 300, 0, UINT32_MAX, 0}, -EPROTO},
		{{1000, 300, 0, 0, IPC_CONTEXTS}, -EPROTO},
		{{1000, 300, 0, 0, UINT32_MAX}, -EPROTO},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		assert_int_equal(ipc_record_check(&table[i].rec, &bounds), table[i].want);
}

static void a_closed_side_does_not_grow(void **state)
{
	struct ipc_bounds b = bounds;
	struct ipc_record rec = {1000, 300, 0, 0, 0};

	(void)state;
	b.tx_closed = true;
	assert_int_equal(ipc_record_check(&rec, &b), 0);
	rec.rcv_read = 500; /* reading goes on */
	assert_int_equal(ipc_record_check(&rec, &b), 0);
	rec.snd_end = 1001;
	assert_int_equal(ipc_record_check(&rec, &b), -EPROTO);
}

static void far_offsets_work(void **state)
{
	struct ipc_bounds b = {.snd_end = UINT64_MAX - 10,
			       .rcv_read = UINT64_MAX - 10,
			       .snd_acked = UINT64_MAX - 100,
			       .rcv_end = UINT64_MAX,
			       .tx_size = 4096};
	struct ipc_record rec = {UINT64_MAX, UINT64_MAX, 0, 0, 0};

	(void)state;
	assert_int_equal(ipc_record_check(&rec, &b), 0);
	rec.snd_end = 5; /* they never wrap */
	assert_int_equal(ipc_record_check(&rec, &b), -EPROTO);
}

static void read_copies_every_word(void **state)
{
	static struct ipc_slot slot;
	struct ipc_record rec;

	(void)state;
	memset(&slot, 0xee, sizeof slot);
	atomic_store(&slot.snd_end, 0x1111111122222222ull);
	atomic_store(&slot.rcv_read, 0x3333333344444444ull);
	atomic_store(&slot.want, 5);
	atomic_store(&slot.opts, 6);
	atomic_store(&slot.context, 7);
	ipc_record_read(&slot, &rec);
	assert_true(rec.snd_end == 0x1111111122222222ull && rec.rcv_read == 0x3333333344444444ull);
	assert_true(rec.want == 5 && rec.opts == 6 && rec.context == 7);
}

/* ---- random ---- */

static uint64_t seed = 1;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* Near an interesting value, or anything. */
static uint64_t rnd_offset(const struct ipc_bounds *b)
{
	const uint64_t base[] = {0,           b->snd_end,
				 b->rcv_read, b->snd_acked,
				 b->rcv_end,  b->snd_acked + b->tx_size,
				 UINT64_MAX};
	uint64_t r = rnd();

	return r % 8 == 7 ? rnd() : base[r % 7] + (rnd() % 5) - 2;
}

/* The rules once more, in numbers that cannot wrap. */
static bool sound(const struct ipc_record *r, const struct ipc_bounds *b)
{
	__int128 unacked = (__int128)r->snd_end - b->snd_acked, new_sent = (__int128)r->snd_end - b->snd_end;
	__int128 unread = (__int128)b->rcv_end - r->rcv_read, new_read = (__int128)r->rcv_read - b->rcv_read;

	return new_sent >= 0 && new_read >= 0 && unacked <= b->tx_size && unread >= 0 &&
	       (new_sent == 0 || !b->tx_closed) && r->want <= 1 && !(r->opts & ~0xffffu) && r->context < IPC_CONTEXTS;
}

/* What is accepted holds the invariants that the fast path builds on, and all that holds them is accepted. */
static void accepted_means_sound(void **state)
{
	uint32_t accepted = 0;

	(void)state;
	for (int i = 0; i < 1000000; i++) {
		uint64_t base = i % 3 ? 0 : rnd() >> 1; /* streams young and old */
		struct ipc_bounds b = {.tx_size = 1u << (rnd() % 31), .tx_closed = rnd() % 4 == 0};
		struct ipc_record r;

		b.snd_acked = base + rnd() % 100000;
		b.snd_end = b.snd_acked + rnd() % (b.tx_size + 1u);
		b.rcv_end = base + rnd() % 100000;
		b.rcv_read = b.rcv_end - rnd() % (b.rcv_end - base + 1);
		r = (struct ipc_record){rnd_offset(&b), rnd_offset(&b), rnd() % 3, 1u << rnd() % 18,
					rnd() % (IPC_CONTEXTS + 2)};
		assert_int_equal(ipc_record_check(&r, &b), sound(&r, &b) ? 0 : -EPROTO);
		accepted += sound(&r, &b);
	}
	assert_true(accepted > 10000 && accepted < 900000);
}

static void honest_use_is_never_refused(void **state)
{
	struct ipc_bounds b = {.tx_size = 8192};
	struct ipc_record r = {0};

	(void)state;
	for (int i = 0; i < 200000; i++) {
		r.snd_end += rnd() % (b.snd_acked + b.tx_size - r.snd_end + 1);
		r.rcv_read += rnd() % (b.rcv_end - r.rcv_read + 1);
		assert_int_equal(ipc_record_check(&r, &b), 0);
		b.snd_end = r.snd_end;
		b.rcv_read = r.rcv_read;
		b.snd_acked += rnd() % (b.snd_end - b.snd_acked + 1);
		b.rcv_end += rnd() % 3000;
	}
}

static void reasons_have_words(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < IPC_REASON_COUNT; i++) {
		assert_true(ipc_reason_name(i)[0]);
		assert_non_null(ipc_reason_help(i));
	}
	assert_string_equal(ipc_reason_name(IPC_REASON_NOT_OURS), "not-our-interface");
	assert_string_equal(ipc_reason_name(IPC_REASON_COUNT), "unknown");
	assert_string_equal(ipc_reason_name(UINT32_MAX), "unknown");
	assert_string_equal(ipc_reason_help(UINT32_MAX), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table_of_records),     cmocka_unit_test(a_closed_side_does_not_grow),
		cmocka_unit_test(far_offsets_work),     cmocka_unit_test(read_copies_every_word),
		cmocka_unit_test(accepted_means_sound), cmocka_unit_test(honest_use_is_never_refused),
		cmocka_unit_test(reasons_have_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
