/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vfork(): its child works in the parent's memory, on the parent's stack and with its thread's
 * TLS, until it executes something else. The descriptor table is the parent's, and must be
 * left alone. Any thread.
 *
 * A function that wraps vfork() cannot return from it: the child would, and tread on the frame
 * that the parent has yet to return through. So vfork() here notes in the thread's TLS that
 * the next closes must ask for the process id, and jumps to libc's, whose caller is then the
 * application's. Whoever finds the note asks the kernel once: the parent, when it goes on,
 * drops it, the child keeps it. Children that come from a raw clone(CLONE_VM) leave no note.
 */
#define _GNU_SOURCE 1
#include "preload/fd.h"
#include "preload/libc.h"

__thread bool fd_vfork_note __attribute__((tls_model("initial-exec")));

#ifdef __x86_64__
void *fd_vfork_begin(void) __attribute__((used, visibility("hidden")));
void *fd_vfork_begin(void)
{
	fd_vfork_note = true;
	return (void *)libc()->vfork;
}

__asm__(".text\n"
	".globl vfork\n"
	".type vfork, @function\n"
	"vfork:\n"
	"	endbr64\n"
	"	subq $8, %rsp\n"
	"	call fd_vfork_begin\n"
	"	addq $8, %rsp\n"
	"	jmp *%rax\n"
	".size vfork, .-vfork\n");

bool fd_maybe_vfork(void)
{
	if (unlikely(fd_vfork_note) && !fd_in_vfork())
		fd_vfork_note = false;
	return fd_vfork_note;
}
#else
bool fd_maybe_vfork(void)
{
	return fd_in_vfork();
}
#endif
