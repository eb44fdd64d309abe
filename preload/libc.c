/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finds the next definition of every interposed function: libc's, or that of a library
 * preloaded after us. Any thread; finding twice is harmless.
 */
#define _GNU_SOURCE 1
#include "preload/libc.h"

#include <dlfcn.h>
#include <stdint.h>

struct libc libc_table;

void libc_resolve(void)
{
	/* copied through an object pointer: ISO C has no conversion between the two kinds */
#define X(type, name, args) *(void **)(void *)&libc_table.name = dlsym(RTLD_NEXT, #name);
	LIBC_LIST(X)
#undef X
	if (!libc_table.fcntl64)
		libc_table.fcntl64 = libc_table.fcntl;
	libc_table.ready = true;
}
