/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Can a library be loaded into a program by LD_PRELOAD? Not if that is static, of another word
 * size or C library, does system calls without libc, or runs with raised privilege. Any
 * thread, also in a vfork child.
 */
#ifndef SERVICE_BASE_IMAGE_H
#define SERVICE_BASE_IMAGE_H

/* The file execvp() would run, as far as it can be told, in @path (PATH_MAX bytes), or NULL. */
const char *image_find(const char *command, char *path);

/*
 * Why LD_PRELOAD would not reach the program in @file (a script: its interpreter), for people,
 * or NULL: it would, or that cannot be judged. @path (PATH_MAX bytes, perhaps @file itself) gets
 * the file that was judged last. @err: 0, or an errno that says why none was: exec has the last
 * word.
 */
const char *image_obstacle(const char *file, char *path, int *err);

#endif
