/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a program file is to the loader. Place in a packet's way: none; `tapas run` asks once,
 * before it becomes the program, and the interposition library before each exec.
 *
 * Invariants: the file is somebody else's: every offset and length is checked. Any thread, also
 * in a vfork child: nothing is allocated or kept, and descriptors are opened, read and closed by
 * system calls of our own, past wrappers whose table of descriptors is the parent's.
 */
#include "service/base/image.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "service/base/compiler.h"

#define HEADERS 128    /* program headers looked at */
#define LOADER 256     /* bytes of a loader's path: longer ones are not compared */
#define NOTE_BYTES 512 /* of each note segment */
#define SCRIPTS 4      /* interpreters that are scripts themselves, as the kernel allows */
#define LINE 256       /* of a script's first line, as the kernel reads it */

static int file_open(const char *path)
{
	return (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
}

static ssize_t file_read(int fd, void *buf, size_t len, uint64_t at)
{
	return syscall(SYS_pread64, fd, buf, len, (off_t)at);
}

const char *image_find(const char *command, char *path)
{
	const char *dirs = getenv("PATH");

	if (strchr(command, '/'))
		return snprintf(path, PATH_MAX, "%s", command) < PATH_MAX ? path : NULL;
	for (const char *d = dirs ? dirs : "/usr/bin:/bin"; *d;) {
		size_t len = strcspn(d, ":");

		if (snprintf(path, PATH_MAX, "%.*s/%s", (int)MIN(len, (size_t)PATH_MAX), len ? d : ".", command) <
			    PATH_MAX &&
		    access(path, X_OK) == 0)
			return path;
		d += len + (d[len] == ':');
	}
	return NULL;
}

static const char *base(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* ---- ELF ---- */

struct elf {
	bool judged, dynamic, go;
	char loader[LOADER];
};

/* Go's linker leaves a note of its own, perhaps beside others. */
static bool has_go_note(int fd, const Elf64_Phdr *ph)
{
	char notes[NOTE_BYTES];
	ssize_t len = file_read(fd, notes, MIN((size_t)ph->p_filesz, sizeof(notes)), ph->p_offset);
	size_t at = 0, n = len > 0 ? (size_t)len : 0;

	while (at + sizeof(Elf64_Nhdr) + 4 <= n) {
		Elf64_Nhdr nh;
		size_t align = ph->p_align == 8 ? 7 : 3;

		memcpy(&nh, notes + at, sizeof(nh));
		at += sizeof(nh);
		if (nh.n_namesz == 4 && !memcmp(notes + at, "Go\0", 4))
			return true;
		if (nh.n_namesz > NOTE_BYTES || nh.n_descsz > NOTE_BYTES)
			return false;
		at = (at + nh.n_namesz + 3) & ~(size_t)3;
		at = (at + nh.n_descsz + align) & ~align;
	}
	return false;
}

static void elf_read(int fd, const Elf64_Ehdr *eh, struct elf *e)
{
	memset(e, 0, sizeof(*e));
	if (eh->e_phentsize != sizeof(Elf64_Phdr) || eh->e_phnum > HEADERS)
		return;
	for (unsigned i = 0; i < eh->e_phnum; i++) {
		Elf64_Phdr ph;

		if (file_read(fd, &ph, sizeof(ph), eh->e_phoff + i * sizeof(ph)) != sizeof(ph))
			return;
		if (ph.p_type == PT_NOTE && has_go_note(fd, &ph))
			e->go = true;
		if (ph.p_type != PT_INTERP)
			continue;
		e->dynamic = true;
		if (ph.p_filesz >= sizeof(e->loader) ||
		    file_read(fd, e->loader, ph.p_filesz, ph.p_offset) != (ssize_t)ph.p_filesz)
			e->loader[0] = 0;
	}
	e->judged = true;
}

/* This program's own loader, for comparison: the library needs the same. */
static bool is_other_loader(const char *loader)
{
	int fd = file_open("/proc/self/exe");
	struct elf own = {.loader = ""};
	Elf64_Ehdr eh;

	if (fd < 0)
		return false;
	if (file_read(fd, &eh, sizeof(eh), 0) == sizeof(eh))
		elf_read(fd, &eh, &own);
	syscall(SYS_close, fd);
	return own.loader[0] && loader[0] && strcmp(base(own.loader), base(loader)) != 0;
}

/* *@err: it cannot be judged. */
static const char *elf_obstacle(int fd, const Elf64_Ehdr *eh, int *err)
{
	struct elf e;

	if (eh->e_ident[EI_CLASS] != ELFCLASS64)
		return "it is not a 64-bit program";
	elf_read(fd, eh, &e);
	if (!e.judged) {
		*err = ENOEXEC;
		return NULL;
	}
	if (!e.dynamic)
		return e.go ? "it is a statically linked Go program" : "it is statically linked";
	if (e.go)
		return "it is a Go program, which does not call libc for its sockets";
	return is_other_loader(e.loader) ? "it is linked with another C library" : NULL;
}

/* The loader ignores LD_PRELOAD then (getauxval(3), AT_SECURE). */
static const char *privilege_obstacle(int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		return NULL;
	if ((st.st_mode & S_ISUID && st.st_uid != getuid()) ||
	    ((st.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && st.st_gid != getgid()))
		return "it is set-user-id or set-group-id";
	if (getuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0)
		return "it has file capabilities";
	return NULL;
}

/* ---- scripts ---- */

/*
 * What a script's first line runs, in @line, which is cut up; NULL if there is no such line.
 * env(1) is looked through: *@search, what it runs is looked for in PATH.
 */
static const char *script_interpreter(char *line, bool *search)
{
	char *save, *word;

	line[strcspn(line, "\n")] = 0;
	word = strtok_r(line + 2, " \t\r", &save);
	*search = word && !strcmp(base(word), "env");
	if (!*search)
		return word;
	do {
		word = strtok_r(NULL, " \t\r", &save);
	} while (word && (word[0] == '-' || strchr(word, '=')));
	return word;
}

const char *image_obstacle(const char *file, char *path, int *err)
{
	char line[LINE + 1];
	const char *why = NULL;

	*err = ELOOP;
	for (int i = 0; i <= SCRIPTS && file; i++) {
		int fd = file_open(file);
		bool search = false;
		Elf64_Ehdr eh;
		ssize_t n;

		if (fd < 0) {
			*err = errno;
			return NULL;
		}
		if (file != path)
			snprintf(path, PATH_MAX, "%s", file);
		file = NULL;
		n = file_read(fd, line, LINE, 0);
		if (n > 2 && line[0] == '#' && line[1] == '!') {
			line[n] = 0;
			file = script_interpreter(line, &search); /* privilege bits of a script mean nothing */
			if (file && search)
				file = image_find(file, path);
			if (!file)
				*err = ENOENT;
		} else if (n >= (ssize_t)sizeof(eh) && !memcmp(line, ELFMAG, SELFMAG)) {
			memcpy(&eh, line, sizeof(eh));
			*err = 0;
			why = privilege_obstacle(fd);
			if (!why)
				why = elf_obstacle(fd, &eh, err);
		} else {
			file = "/bin/sh"; /* what execvp() does with a text */
		}
		syscall(SYS_close, fd);
	}
	return why;
}
