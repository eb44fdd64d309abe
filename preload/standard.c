/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stdio on a connection that an image was executed with as its standard input or output. libc
 * reads and writes the descriptor inside itself, past the library. But stdin, stdout and stderr
 * are variables: at the start of such an image they get streams that read and write by the
 * library's own calls, so that stdio, read() and write() may be mixed at will on a connection that
 * is carried by the service. Not in a packet's way. Before main(), in the constructor of the
 * library; afterwards only looked at.
 *
 * Invariants: nobody has the old stream. It has not been used, and no shared object that is
 * loaded names it, whose constructor may have kept it; the program itself has not begun. Where that cannot be said, and
 * where somebody may write wide characters, which such streams cannot, nothing is changed (see share_is_read_by_stdio()).
 */
#define _GNU_SOURCE 1
#include "preload/standard.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/base/compiler.h"

#if UINTPTR_MAX > UINT32_MAX
typedef Elf64_Sym elf_sym;
typedef Elf64_Dyn elf_dyn;
#else
typedef Elf32_Sym elf_sym;
typedef Elf32_Dyn elf_dyn;
#endif

static bool taken[STANDARD_FDS]; /* constant from main() on */

bool standard_is_taken(int fd)
{
	return fd >= 0 && fd < STANDARD_FDS && taken[fd];
}

/* ---- the stream ---- */

static ssize_t do_read(void *cookie, char *buf, size_t len)
{
	return read((int)(intptr_t)cookie, buf, len);
}

/* As libc does for a file: all of it, or as much as can be; never negative. */
static ssize_t do_write(void *cookie, const char *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = write((int)(intptr_t)cookie, buf + done, len - done);

		if (n < 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

static int do_seek(void *cookie, off64_t *offset, int whence)
{
	(void)cookie;
	(void)offset;
	(void)whence;
	errno = ESPIPE;
	return -1;
}

static int do_close(void *cookie)
{
	return close((int)(intptr_t)cookie);
}

/*
 * With the buffer that @old would get. It is for bytes alone, but freopen() may make a file of it, for which it has the
 * place for wide characters that @old needs no more. NULL: no memory.
 */
static FILE *stream_new(int fd, const FILE *old)
{
	const cookie_io_functions_t calls = {.read = do_read, .write = do_write, .seek = do_seek, .close = do_close};
	FILE *f = fopencookie((void *)(intptr_t)fd, fd ? "w" : "r", calls);
	char *buf = NULL;
	struct stat st;

	if (!f)
		return NULL;
	if (fd != STDERR_FILENO && !fstat(fd, &st) && st.st_blksize > 0)
		buf = malloc((size_t)st.st_blksize);
	if (fd == STDERR_FILENO)
		setvbuf(f, NULL, _IONBF, 0);
	else if (buf)
		setvbuf(f, buf, _IOFBF, (size_t)st.st_blksize);
	f->_fileno = fd; /* what fileno() says */
	f->_wide_data = old->_wide_data;
	return f;
}

/* ---- who may have the old one ---- */

struct search {
	const char *stream, *object; /* "stdin", "_IO_2_1_stdin_" */
	uint32_t place;
	bool found;
};

/* Calls that make a stream one of wide characters; with __ before them and _chk or _unlocked behind, too. */
static const char *const wide[] = {"fwide",  "fgetwc",   "getwc",   "getwchar", "fgetws",   "ungetwc",  "fputwc",
				   "putwc",  "putwchar", "fputws",  "wprintf",  "fwprintf", "vwprintf", "vfwprintf",
				   "wscanf", "fwscanf",  "vwscanf", "vfwscanf", "woverflow"};

static bool is_wide(const char *name)
{
	static const char iso[] = "isoc";

	while (*name == '_')
		name++;
	if (!strncmp(name, iso, sizeof(iso) - 1)) {
		name += strcspn(name, "_");
		name += *name == '_';
	}
	for (size_t i = 0; i < ARRAY_SIZE(wide); i++) {
		size_t n = strlen(wide[i]);

		if (!strncmp(name, wide[i], n) && (!name[n] || name[n] == '_'))
			return true;
	}
	return false;
}

static const void *dyn_ptr(uintptr_t base, uintptr_t at)
{
	return (const void *)(at < base ? base + at : at);
}

/* What is looked for in one object. */
struct symbols {
	const elf_sym *sym;
	const char *str;
	size_t str_size;
	const uint32_t *hash, *gnu_hash;
	bool preinit;
};

static void symbols_find(const struct dl_phdr_info *info, struct symbols *out)
{
	const elf_dyn *dyn = NULL;

	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
			dyn = (const elf_dyn *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
	for (; dyn && dyn->d_tag != DT_NULL; dyn++) {
		const void *p = dyn_ptr(info->dlpi_addr, dyn->d_un.d_ptr);

		if (dyn->d_tag == DT_SYMTAB)
			out->sym = p;
		else if (dyn->d_tag == DT_STRTAB)
			out->str = p;
		else if (dyn->d_tag == DT_STRSZ)
			out->str_size = dyn->d_un.d_val;
		else if (dyn->d_tag == DT_GNU_HASH)
			out->gnu_hash = p;
		else if (dyn->d_tag == DT_HASH)
			out->hash = p;
		else if (dyn->d_tag == DT_PREINIT_ARRAY)
			out->preinit = true;
	}
}

/*
 * How many symbols, those that it wants from others being among them? 0: not known. The GNU table says where they end,
 * unless it is empty; then the names follow the symbols, as linkers lay them out.
 */
static size_t symbols_count(const struct symbols *t)
{
	if (!t->sym || !t->str)
		return 0;
	if (t->hash)
		return t->hash[1];
	if (t->gnu_hash && t->gnu_hash[1] > 1)
		return t->gnu_hash[1];
	return t->str > (const char *)t->sym ? (size_t)(t->str - (const char *)t->sym) / sizeof(*t->sym) : 0;
}

/* libc, and what has no part in this: the loader, the kernel's own, this library. */
static bool is_known(const struct dl_phdr_info *info)
{
	static const char *const known[] = {"libc.so.6", "ld-linux", "linux-vdso", "linux-gate", "libtapas-preload"};
	const char *base = strrchr(info->dlpi_name, '/');

	base = base ? base + 1 : info->dlpi_name;
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (!strncmp(base, known[i], strlen(known[i])))
			return true;
	return false;
}

static bool names_it(const struct search *s, const char *name, bool is_program)
{
	return !strcmp(name, s->object) || (!is_program && !strcmp(name, s->stream)) || is_wide(name);
}

/* One object that is loaded. The program is the first one; it may name the variable, but not run before us. */
static int look_at(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct symbols t = {.sym = NULL};
	struct search *s = arg;
	bool is_program = !s->place++;
	size_t n;

	(void)size;
	if (!is_program && is_known(info))
		return 0;
	symbols_find(info, &t);
	n = symbols_count(&t);
	s->found = !n || t.preinit;
	for (size_t i = 0; i < n && !s->found; i++)
		s->found = t.sym[i].st_name < t.str_size && names_it(s, t.str + t.sym[i].st_name, is_program);
	return s->found;
}

/* Is it libc's own, and not touched yet? A buffer of stdout comes with the first byte. */
static bool is_pristine(FILE *f, int fd, const char *object)
{
	void *own = dlsym(RTLD_DEFAULT, object);
	Dl_info info;
	const char *base;

	if (f != own || !dladdr(own, &info)) /* an old program may have a copy of it */
		return false;
	base = strrchr(info.dli_fname, '/');
	return !strcmp(base ? base + 1 : info.dli_fname, "libc.so.6") && fileno(f) == fd && !__fbufsize(f) &&
	       !__fpending(f) && !ferror(f) && !feof(f) && !f->_mode;
}

void standard_take(int fd)
{
	static const struct search names[STANDARD_FDS] = {{.stream = "stdin", .object = "_IO_2_1_stdin_"},
							  {.stream = "stdout", .object = "_IO_2_1_stdout_"},
							  {.stream = "stderr", .object = "_IO_2_1_stderr_"}};
	FILE **const at[STANDARD_FDS] = {&stdin, &stdout, &stderr};
	struct search s;
	FILE *f;

	if (fd < 0 || fd >= STANDARD_FDS || taken[fd])
		return;
	s = names[fd];
	if (!is_pristine(*at[fd], fd, s.object))
		return;
	dl_iterate_phdr(look_at, &s);
	f = s.found ? NULL : stream_new(fd, *at[fd]);
	if (!f)
		return;
	*at[fd] = f;
	taken[fd] = true;
}
