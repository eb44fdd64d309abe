// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * posix_cases list
 * posix_cases run NAME              the transcript on standard output
 * posix_cases batch DIR JOBS NAME...
 *
 * list: a line for each case, tab-separated: name, text, why it may be Linux's at the end, why it
 * is Linux's throughout. batch: runs each case in a new process, JOBS at once, with a time limit;
 * writes DIR/NAME.out (transcript), .err (the library's messages) and .proof (lab.c).
 *
 * Environment: POSIX_CTL (the peer's socket), POSIX_ADDR, POSIX_PEER_ADDR, and POSIX_FAST=1 if
 * connections are to be accelerated.
 */
#include <ctype.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/posix/posix.h"

#define OUT_FD 201
#define CASE_S 6 /* a case takes well under a second; one that hangs is ended */

const struct test_case *this_case;

/* ---- transcript ---- */

static void put_line(char *line, int n, size_t size)
{
	int saved = errno;

	if (n > (int)size - 2)
		n = (int)size - 2;
	for (int i = 0; i < n; i++)
		if (!isprint((unsigned char)line[i]))
			line[i] = '.';
	line[n] = '\n';
	if (write(OUT_FD, line, (size_t)n + 1) < 0)
		_exit(98);
	errno = saved;
}

void say(const char *fmt, ...)
{
	char line[400];
	va_list ap;
	int n, saved = errno;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	put_line(line, n, sizeof(line));
	errno = saved;
}

const char *err_name(int err)
{
	const char *name = err ? strerrorname_np(err) : "0";

	return name ? name : "?";
}

long tell(long ret, const char *fmt, ...)
{
	char what[300];
	va_list ap;
	int saved = errno;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (ret == -1)
		say("%s = -1 %s", what, err_name(saved));
	else
		say("%s = %ld", what, ret);
	errno = saved;
	return ret;
}

long tell_data(long ret, const void *buf, const char *fmt, ...)
{
	char what[200];
	va_list ap;
	int saved = errno;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (ret == -1)
		say("%s = -1 %s", what, err_name(saved));
	else if (ret <= 0)
		say("%s = %ld", what, ret);
	else if (ret <= 64)
		say("%s = %ld \"%.*s\"", what, ret, (int)ret, (const char *)buf);
	else
		say("%s = %ld #%08x", what, ret, (unsigned)pattern_hash(HASH_START, buf, (size_t)ret));
	errno = saved;
	return ret;
}

const char *event_names(uint32_t ev)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} names[] = {
		{EPOLLIN, "IN"},         {EPOLLPRI, "PRI"},       {EPOLLOUT, "OUT"},       {EPOLLERR, "ERR"},
		{EPOLLHUP, "HUP"},       {POLLNVAL, "NVAL"},      {EPOLLRDNORM, "RDNORM"}, {EPOLLRDBAND, "RDBAND"},
		{EPOLLWRNORM, "WRNORM"}, {EPOLLWRBAND, "WRBAND"}, {EPOLLMSG, "MSG"},       {EPOLLRDHUP, "RDHUP"},
	};
	static __thread char out[100];
	size_t n = 0;

	out[n++] = '[';
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (ev & names[i].bit)
			n += (size_t)snprintf(out + n, sizeof(out) - n - 1, "%s%s", n > 1 ? "|" : "", names[i].name);
	out[n++] = ']';
	out[n] = 0;
	return out;
}

void fatal(const char *fmt, ...)
{
	char what[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	say("cannot go on: %s", what);
	_exit(97);
}

/* ---- cases ---- */

/* The cases in their order; NULL at the end of all. */
static const struct test_case *case_at(size_t i)
{
	for (size_t k = 0; case_lists[k]; k++)
		for (const struct test_case *c = case_lists[k]; c->name; c++)
			if (!i--)
				return c;
	for (size_t k = 0; case_matrices[k]; k++)
		for (const struct test_case *c = case_matrices[k](); c->name; c++)
			if (!i--)
				return c;
	return NULL;
}

static int run(const char *name)
{
	for (size_t i = 0; (this_case = case_at(i)); i++)
		if (!strcmp(this_case->name, name))
			break;
	if (!this_case) {
		fprintf(stderr, "posix_cases: no case %s\n", name);
		return 2;
	}
	if (fcntl(1, F_DUPFD, OUT_FD) != OUT_FD) {
		perror("posix_cases");
		return 2;
	}
	this_case->run();
	conn_report_end();
	return 0;
}

static int list(void)
{
	const struct test_case *c;

	for (size_t i = 0; (c = case_at(i)); i++)
		printf("%s\t%s\t%s\t%s\n", c->name, c->text, c->returns ? c->returns : "", c->stays ? c->stays : "");
	return 0;
}

/* ---- batch ---- */

struct job {
	pid_t pid;
	const char *name;
	double start;
	bool late;
};

static void file_name(char *out, size_t size, const char *dir, const char *name, const char *ext)
{
	size_t n = (size_t)snprintf(out, size, "%s/%s.%s", dir, name, ext);

	for (size_t i = strlen(dir) + 1; i < n && i < size; i++)
		if (out[i] == '/')
			out[i] = '-';
}

static void job_start(struct job *j, const char *dir, const char *name)
{
	char out[300], err[300], proof[300];

	file_name(out, sizeof(out), dir, name, "out");
	file_name(err, sizeof(err), dir, name, "err");
	file_name(proof, sizeof(proof), dir, name, "proof");
	*j = (struct job){.name = name, .start = seconds(), .pid = fork()};
	if (j->pid)
		return;
	setpgid(0, 0);
	setenv("POSIX_PROOF", proof, 1);
	close(0);
	close(1);
	close(2);
	if (open("/dev/null", O_RDONLY) != 0 || open(out, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644) != 1 ||
	    open(err, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644) != 2)
		_exit(96);
	execl("/proc/self/exe", "posix_cases", "run", name, NULL);
	_exit(95);
}

static void job_end(struct job *j, const char *dir, int status)
{
	char path[300], line[100];
	int fd;

	kill(-j->pid, SIGKILL); /* what it left behind */
	file_name(path, sizeof(path), dir, j->name, "out");
	fd = open(path, O_WRONLY | O_APPEND);
	if (j->late)
		snprintf(line, sizeof(line), "did not end within its time\n");
	else if (WIFSIGNALED(status))
		snprintf(line, sizeof(line), "ended by SIG%s\n", sigabbrev_np(WTERMSIG(status)));
	else if (WEXITSTATUS(status))
		snprintf(line, sizeof(line), "exit status %d\n", WEXITSTATUS(status));
	else
		line[0] = 0;
	if (fd < 0 || write(fd, line, strlen(line)) < 0)
		fprintf(stderr, "posix_cases: %s: %s\n", path, strerror(errno));
	close(fd);
	printf("%s\t%d\n", j->name, (int)((seconds() - j->start) * 1000));
	fflush(stdout);
	j->pid = 0;
}

static void jobs_tend(struct job *jobs, int n, const char *dir)
{
	struct timespec wait = {.tv_nsec = 100000000};
	sigset_t chld;
	int status;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigtimedwait(&chld, NULL, &wait);
	for (int i = 0; i < n; i++) {
		struct job *j = &jobs[i];

		if (!j->pid)
			continue;
		if (waitpid(j->pid, &status, WNOHANG) == j->pid) {
			job_end(j, dir, status);
		} else if (seconds() - j->start > CASE_S && !j->late) {
			j->late = true;
			kill(-j->pid, SIGKILL);
			kill(j->pid, SIGKILL);
		}
	}
}

static int batch(const char *dir, int n, char **names)
{
	struct job jobs[32] = {{0}};
	int busy;
	sigset_t chld;

	n = n < 1 ? 1 : n > 32 ? 32 : n;
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	do {
		busy = 0;
		for (int i = 0; i < n; i++) {
			if (!jobs[i].pid && *names)
				job_start(&jobs[i], dir, *names++);
			busy += jobs[i].pid != 0;
		}
		if (busy)
			jobs_tend(jobs, n, dir);
	} while (busy);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "list"))
		return list();
	if (argc == 3 && !strcmp(argv[1], "run")) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		return run(argv[2]);
	}
	if (argc > 4 && !strcmp(argv[1], "batch"))
		return batch(argv[2], atoi(argv[3]), argv + 4);
	fprintf(stderr, "usage: posix_cases list | run NAME | batch DIR JOBS NAME...\n");
	return 2;
}
