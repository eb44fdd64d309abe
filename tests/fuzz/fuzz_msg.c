/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Any bytes as a control message. First byte: direction and number of descriptors. What the
 * check accepts must be of a known type, of the right size, and have text that ends.
 */
/* links: service/ipc/msg.c */
#include <stdlib.h>
#include <string.h>

#include "service/ipc/abi.h"
#include "service/ipc/msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ipc_msg *m = malloc(sizeof *m);
	size_t len;
	int nfds;

	if (!size || !m) {
		free(m);
		return 0;
	}
	len = size - 1;
	nfds = (data[0] >> 1) % (IPC_MSG_FDS + 2) - 1;
	memset(m, 0xff, sizeof *m);
	memcpy(m, data + 1, len < sizeof *m ? len : sizeof *m);
	if (ipc_msg_check(m, len, nfds, data[0] & 1) == 0 &&
	    (len != sizeof *m || m->magic != IPC_MAGIC || !m->type || m->type >= IPC_MSG_TYPES || m->flags ||
	     nfds < 0 || nfds > IPC_MSG_FDS || strnlen(m->text, sizeof m->text) == sizeof m->text))
		__builtin_trap();
	free(m);
	return 0;
}
