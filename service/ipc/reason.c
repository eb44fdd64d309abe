/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Words for the reasons why a connection is with Linux. */
#include "service/ipc/abi.h"

static const struct {
	const char *name, *help;
} reasons[IPC_REASON_COUNT] = {
#define X(id, name, help) [IPC_REASON_##id] = {name, help},
	IPC_REASON_LIST(X)
#undef X
};

const char *ipc_reason_name(uint32_t reason)
{
	return reason < IPC_REASON_COUNT ? reasons[reason].name : "unknown";
}

const char *ipc_reason_help(uint32_t reason)
{
	return reason < IPC_REASON_COUNT ? reasons[reason].help : "";
}
