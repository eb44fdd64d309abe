// SPDX-License-Identifier: GPL-2.0-or-later
/* What the cases about several processes share. */
#ifndef TESTS_POSIX_PROCESS_H
#define TESTS_POSIX_PROCESS_H

#include <sys/types.h>

#include "tests/posix/posix.h"

#define SHARED_WHY "the connection is shared between processes"
#define TAKEN_WHY "a program without the library takes it"

void process_read(const char *who, int fd);
void process_write(const char *who, int fd, const char *text);
pid_t child_new(void);
void child_end(pid_t pid);
/* The program to execute. */
const char *image_path(bool is_static);

#endif
