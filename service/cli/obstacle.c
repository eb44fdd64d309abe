/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Why a library can't be loaded into a program by LD_PRELOAD: it is static, of another word
 * size or C library, does system calls without libc, or runs with raised privilege. Place in
 * a packet's way: none; `tapas run` asks once, before it becomes the program.
 *
 * Invariants: the file is somebody else's: every offset and length is checked, and what can't
 * be judged is no obstacle, as the loader has the last word.
 */
#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "service/base/compiler.h"
#include "service/cli/cli.h"

#define HEADERS 128    /* program headers looked at */
#define NOTE_BYTES 512 /* of each note segment */
#define SCRIPTS 4      /* interpreters that are scripts themselves, as the kernel allows */
#define LINE 256       /* of a script's first line, as the kernel reads it */

/* The file execvp() would run, as far as it can be told; @path has PATH_MAX bytes. */
static const char *find(const char *command, char *path)
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
	char loader[PATH_MAX];
};

/* Go's linker leaves a note of its own, perhaps beside others. */
static bool has_go_note(int fd, const Elf64_Phdr *ph)
{
	char notes[NOTE_BYTES];
	ssize_t len = pread(fd, notes, MIN((size_t)ph->p_filesz, sizeof(notes)), (off_t)ph->p_offset);
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

		if (pread(fd, &ph, sizeof(ph), (off_t)(eh->e_phoff + i * sizeof(ph))) != sizeof(ph))
			return;
		if (ph.p_type == PT_NOTE && has_go_note(fd, &ph))
			e->go = true;
		if (ph.p_type != PT_INTERP)
			continue;
		e->dynamic = true;
		if (ph.p_filesz >= sizeof(e->loader) ||
		    pread(fd, e->loader, ph.p_filesz, (off_t)ph.p_offset) != (ssize_t)ph.p_filesz)
			e->loader[0] = 0;
	}
	e->judged = true;
}

/* This program's own loader, for comparison: the library needs the same. */
static bool is_other_loader(const char *loader)
{
	static struct elf own;
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	Elf64_Ehdr eh;

	if (fd < 0)
		return false;
	if (pread(fd, &eh, sizeof(eh), 0) == sizeof(eh))
		elf_read(fd, &eh, &own);
	close(fd);
	return own.loader[0] && loader[0] && strcmp(base(own.loader), base(loader)) != 0;
}

static const char *elf_obstacle(int fd, const Elf64_Ehdr *eh)
{
	static struct elf e;

	if (eh->e_ident[EI_CLASS] != ELFCLASS64)
		return "it is not a 64-bit program";
	elf_read(fd, eh, &e);
	if (!e.judged)
		return NULL;
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
 * What a script's first line runs, in @line, which is cut up; env(1) is looked through.
 * Returns NULL if there is no such line.
 */
static const char *script_interpreter(char *line)
{
	char *save, *word;

	line[strcspn(line, "\n")] = 0;
	word = strtok_r(line + 2, " \t\r", &save);
	if (!word || strcmp(base(word), "env") != 0)
		return word;
	do {
		word = strtok_r(NULL, " \t\r", &save);
	} while (word && (word[0] == '-' || strchr(word, '=')));
	return word;
}

const char *cli_obstacle(const char *command, char *path)
{
	char line[LINE + 1];
	const char *why = NULL;

	for (int i = 0; i <= SCRIPTS && command; i++) {
		const char *file = find(command, path);
		int fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
		Elf64_Ehdr eh;
		ssize_t n;

		if (fd < 0)
			return NULL;
		command = NULL;
		n = pread(fd, line, LINE, 0);
		if (n > 2 && line[0] == '#' && line[1] == '!') {
			line[n] = 0;
			command = script_interpreter(line); /* privilege bits of a script mean nothing */
		} else if (n >= (ssize_t)sizeof(eh) && !memcmp(line, ELFMAG, SELFMAG)) {
			memcpy(&eh, line, sizeof(eh));
			why = privilege_obstacle(fd);
			if (!why)
				why = elf_obstacle(fd, &eh);
		}
		close(fd);
	}
	return why;
}
