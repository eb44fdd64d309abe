/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An application that writes anything into its slot, step after step, while the peer
 * acknowledges and sends. Whatever the check accepts must keep the service's own state sound.
 * Input: the logarithm of the buffer's size, then steps of 1 + 28 bytes.
 */
/* links: service/ipc/record.c */
#include <string.h>

#include "service/ipc/abi.h"

#define REQUIRE(x)                        \
	do {                              \
		if (!(x))                 \
			__builtin_trap(); \
	} while (0)

enum { STEP = 29, RELATIVE = 1, CLOSE = 2, ACKED = 4, RECEIVED = 8, SMALL = 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void slot_write(struct ipc_slot *slot, const uint8_t *step, const struct ipc_bounds *b)
{
	uint64_t snd, rcv;
	uint32_t word[3];

	memcpy(&snd, step + 1, 8);
	memcpy(&rcv, step + 9, 8);
	memcpy(word, step + 17, 12);
	if (step[0] & SMALL) {
		snd %= 4096;
		rcv %= 4096;
	}
	if (step[0] & RELATIVE) {
		snd += b->snd_end;
		rcv += b->rcv_read;
	}
	atomic_store(&slot->snd_end, snd);
	atomic_store(&slot->rcv_read, rcv);
	atomic_store(&slot->want, word[0]);
	atomic_store(&slot->opts, word[1]);
	atomic_store(&slot->context, word[2]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ipc_slot slot;
	struct ipc_bounds b = {.tx_size = size ? 1u << data[0] % 31 : 1};

	for (size_t at = 1; at + STEP <= size; at += STEP) {
		const uint8_t *step = data + at;
		struct ipc_record r;

		slot_write(&slot, step, &b);
		ipc_record_read(&slot, &r);
		if (ipc_record_check(&r, &b))
			continue;
		REQUIRE(r.snd_end >= b.snd_end && r.snd_end - b.snd_acked <= b.tx_size);
		REQUIRE(r.rcv_read >= b.rcv_read && r.rcv_read <= b.rcv_end);
		REQUIRE(!b.tx_closed || r.snd_end == b.snd_end);
		REQUIRE(r.context < IPC_CONTEXTS);
		b.snd_end = r.snd_end;
		b.rcv_read = r.rcv_read;
		b.tx_closed |= !!(step[0] & CLOSE);
		if (step[0] & ACKED)
			b.snd_acked += (b.snd_end - b.snd_acked) / 2;
		if (step[0] & RECEIVED)
			b.rcv_end += 1 + step[1];
	}
	return 0;
}
