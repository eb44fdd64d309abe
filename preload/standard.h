/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Standard streams on a connection that this image was executed with (standard.c). */
#ifndef PRELOAD_STANDARD_H
#define PRELOAD_STANDARD_H

#include <stdbool.h>

#define STANDARD_FDS 3

/* @fd (0 to 2) is a connection from exec on: stdio's stream of it reads and writes by the library, if that can be. Before
 * main(). */
void standard_take(int fd);
/* Is it so? Then stdio does not go past the library. */
bool standard_is_taken(int fd);

#endif
