/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The boundary's checker. An application's record is copied once, word by word, and only the
 * copy is looked at: what the application writes meanwhile cannot matter.
 */
#include <errno.h>

#include "service/ipc/abi.h"

#define WANT_ALL IPC_WANT_SPACE
#define OPTS_ALL                                                                                                   \
	(IPC_OPT_NODELAY | IPC_OPT_CORK | IPC_OPT_QUICKACK | IPC_OPT_KEEPALIVE | IPC_OPT_LOWAT | IPC_OPT_DRAINED | \
	 IPC_OPT_SHUT_RD | IPC_OPT_BROKEN | IPC_OPT_CHANGES)

void ipc_record_read(struct ipc_slot *slot, struct ipc_record *out)
{
	/* acquire: pairs with the library's release stores after it wrote or read payload */
	out->snd_end = atomic_load_explicit(&slot->snd_end, memory_order_acquire);
	out->rcv_read = atomic_load_explicit(&slot->rcv_read, memory_order_acquire);
	out->want = atomic_load_explicit(&slot->want, memory_order_relaxed);
	out->opts = atomic_load_explicit(&slot->opts, memory_order_relaxed);
	out->context = atomic_load_explicit(&slot->context, memory_order_relaxed);
}

void ipc_record_freeze(struct ipc_slot *slot, struct ipc_record *out)
{
	ipc_record_read(slot, out);
	/* acquire: as above; release: pairs with the library's failed exchange, after which it looks at the status */
	out->snd_end = atomic_fetch_or_explicit(&slot->snd_end, IPC_FROZEN, memory_order_acq_rel) & ~IPC_FROZEN;
	out->rcv_read = atomic_fetch_or_explicit(&slot->rcv_read, IPC_FROZEN, memory_order_acq_rel) & ~IPC_FROZEN;
}

int ipc_record_check(const struct ipc_record *rec, const struct ipc_bounds *cur)
{
	if (rec->snd_end < cur->snd_end || rec->rcv_read < cur->rcv_read)
		return -EPROTO;
	if (cur->tx_closed && rec->snd_end != cur->snd_end)
		return -EPROTO;
	/* snd_acked <= accepted snd_end <= snd_end: no underflow */
	if (rec->snd_end - cur->snd_acked > cur->tx_size || rec->rcv_read > cur->rcv_end)
		return -EPROTO;
	if (rec->want & ~WANT_ALL || rec->opts & ~OPTS_ALL || rec->context >= IPC_CONTEXTS)
		return -EPROTO;
	return 0;
}
