// SPDX-License-Identifier: GPL-2.0-or-later
/* New images that have a connection as a standard stream: by read() and write(), by stdio, and by both in turn. */
#include <pthread.h>
#include <sys/wait.h>

#include "tests/posix/process.h"

#define SEED_OUT 2

/* What an image does, and what its peer sends it (in bytes of a pattern) and gets meanwhile. */
struct talk {
	int64_t in, out;
	const char *argv[12];
};

static const struct talk talks[] = {
	{1500000, 1500000, {"R1500000", "W1500000"}},
	{900000, 0, {"R400000", "F500000"}},
	{0, 3500000, {"W500000", "P3000000"}},
	{0, 3500000, {"W500000", "P1000000", "f", "W1000000", "P1000000"}},
	{1500000, 1500000, {"F1500000", "P1500000"}},
	{800000, 800000, {"R400000", "W400000", "F400000", "P400000"}},
	{400000, 400000, {"R400000", "W400000", "n", "tlost", "x"}},
	{400000, 400004, {"R400000", "W400000", "tkept"}},
	{400000, 400000, {"R400000", "W400000", "o", "q", "Q"}},
	{400000, 400000, {"R400000", "W400000", "Q", "q"}},
	{0, 3000004, {"W3000000", "q", "tkept", "Q"}},
};

static void image_exec(const struct talk *t)
{
	const char *argv[16] = {"posix_image", "0"};

	for (int i = 0; t->argv[i]; i++)
		argv[i + 2] = t->argv[i];
	execv(image_path(false), (char **)(uintptr_t)argv);
	_exit(9);
}

static void pumped_say(const struct talk *t)
{
	struct peer_answer a = peer_wait();

	say("peer got %lld%s", (long long)a.ret,
	    t->out && a.hash == pattern_stream_hash(SEED_OUT, (uint64_t)t->out) ? ", right" : "");
}

/* As inetd does. */
static void image_both(void)
{
	const struct talk *t = &talks[this_case->a];
	struct conn *c = conn_open();
	pid_t pid = child_new();

	if (!pid) {
		dup2(c->fd, 0);
		dup2(c->fd, 1);
		close(c->fd);
		image_exec(t);
	}
	close(c->fd);
	peer_later(0, PEER_PUMP, c, t->in, t->out);
	child_end(pid);
	pumped_say(t);
	peer_drain_say(c);
}

static void *reads(void *arg)
{
	const struct conn *c = arg;
	static char got[40];

	tell_data(recv(c->fd, got, 7, MSG_WAITALL), got, "parent: recv");
	return NULL;
}

/* The parent receives while the image sends, as git push does. */
static void image_output(void)
{
	const struct talk *t = &talks[this_case->a];
	struct conn *c = conn_open();
	pthread_t thread;
	pid_t pid;

	pthread_create(&thread, NULL, reads, c);
	pause_ms(30);
	pid = child_new();
	if (!pid) {
		dup2(c->fd, 1);
		close(c->fd);
		image_exec(t);
	}
	peer_later(0, PEER_PUMP, c, 0, t->out);
	child_end(pid);
	pumped_say(t);
	peer_text(c, "welcome");
	pthread_join(thread, NULL);
	process_write("parent", c->fd, "goodbye");
	close(c->fd);
	peer_drain_say(c);
}

static void *forks(void *arg)
{
	const struct conn *c = arg;
	pid_t pid;

	pause_ms(50);
	pid = child_new();
	if (!pid) {
		process_write("child", c->fd, "first");
		_exit(3);
	}
	child_end(pid);
	close(c->fd);
	tell(open("/dev/null", O_RDWR) == c->fd, "its number is used again");
	peer_text(c, "late");
	return NULL;
}

/* A connection that has come back to Linux is closed by a thread while another one sleeps in a receive on it. */
static void closed_under(void)
{
	struct conn *c = conn_open();
	static char got[40];
	pthread_t thread;
	ssize_t n;

	tell(dup2(c->fd, 0), "dup2"); /* Linux's from here on */
	close(0);
	pthread_create(&thread, NULL, forks, c);
	n = recv(c->fd, got, sizeof(got), 0);
	pthread_join(thread, NULL);
	tell_data(n, got, "recv");
	peer_drain_say(c);
}

#define BOTH_WHY "the image begins in Linux"

const struct test_case cases_streams[] = {
	CASE_WITH("streams/calls", "1.5 MB each way by read and write", image_both, BOTH_WHY, 0),
	CASE_WITH("streams/read-then-stdio", "read, then fread", image_both, BOTH_WHY, 1),
	CASE_WITH("streams/write-then-stdio", "0.5 MB by write, then 3 MB by fwrite", image_both, BOTH_WHY, 2),
	CASE_WITH("streams/write-in-turn", "write and fwrite in turn", image_both, BOTH_WHY, 3),
	CASE_WITH("streams/stdio", "1.5 MB each way by stdio alone", image_both, BOTH_WHY, 4),
	CASE_WITH("streams/calls-then-stdio", "read and write, then stdio", image_both, BOTH_WHY, 5),
	CASE_WITH("streams/unflushed", "what is not flushed is lost with _exit", image_both, BOTH_WHY, 6),
	CASE_WITH("streams/exit", "exit flushes", image_both, BOTH_WHY, 7),
	CASE_WITH("streams/reopen", "freopen of standard input, fclose of both", image_both, BOTH_WHY, 8),
	CASE_WITH("streams/fclose", "fclose of standard output, then of input", image_both, BOTH_WHY, 9),
	CASE_WITH("streams/fclose-flushes", "fclose of standard output flushes", image_both, BOTH_WHY, 10),
	CASE_WITH("streams/output", "the image writes, a thread of the parent receives", image_output, SHARED_WHY, 2),
	CASE_WITH("streams/output-in-turn", "the same, by write and stdio in turn", image_output, SHARED_WHY, 3),
	CASE_RETURNS("streams/closed-under", "closed while a receive sleeps on it", closed_under, SHARED_WHY),
	{.name = NULL},
};
