// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The director's processes: they are started, asked, stopped and ended here. The library comes
 * to them by the director's environment, if at all; the outsider is executed without it, and so
 * is who lives in another network namespace.
 * A process that does not answer in time ends the script: that is a line of the transcript.
 */
#include "tests/asleep.h"
#include "tests/local/ops_script.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define GONE_MS 3000

static const char names[WHO_MAX] = "ABabHO";
static int far_netns = -1;
int far_who = -1;

void show(int who, int end, const char *text)
{
	char label[16] = "";

	if (end >= 0)
		snprintf(label, sizeof label, " %d%c", end / 2, end & 1 ? 's' : 'c');
	printf("%u %c%s %s\n", ++script.lines, who < 0 ? '-' : names[who], label, text);
}

static void fail(int who, const char *text)
{
	if (!script.failed)
		show(who, -1, text);
	script.failed = true;
}

bool proc_alive(int who)
{
	return script.procs[who].pid > 0;
}

bool proc_usable(int who)
{
	return proc_alive(who) && script.stopped != who;
}

void proc_adopt(int who, pid_t pid, int channel)
{
	script.procs[who] = (struct proc){.pid = pid, .pidfd = pidfd_open(pid, 0), .channel = channel};
}

bool proc_far(int who, const char *name)
{
	char path[300];

	snprintf(path, sizeof path, "/run/netns/%s", name);
	far_netns = open(path, O_RDONLY | O_CLOEXEC);
	far_who = who;
	return far_netns >= 0;
}

void proc_spawn(int who)
{
	char number[16];
	char *argv[] = {"ops", "actor", number, "", (char *)net_to, (char *)net_from, NULL};
	int s[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s))
		abort();
	pid = fork();
	if (!pid) {
		fcntl(s[1], F_SETFD, 0);
		snprintf(number, sizeof number, "%d", s[1]);
		if (who == far_who && setns(far_netns, CLONE_NEWNET))
			_exit(98);
		if (who == far_who || who == WHO_OUTSIDER)
			unsetenv("LD_PRELOAD");
		execv("/proc/self/exe", argv);
		_exit(99);
	}
	close(s[1]);
	proc_adopt(who, pid, s[0]);
}

/* All descriptors of a process are closed when its pidfd says that it has ended. */
void proc_gone(int who)
{
	struct proc *p = &script.procs[who];
	struct pollfd poll_end = {.fd = p->pidfd, .events = POLLIN};

	if (poll(&poll_end, 1, GONE_MS) <= 0)
		fail(who, "does not end");
	waitpid(p->pid, NULL, WNOHANG); /* a child's child is not ours, and nobody waits for it */
	close(p->pidfd);
	close(p->channel);
	*p = (struct proc){.pidfd = -1, .channel = -1};
	if (script.stopped == who)
		script.stopped = -1;
}

void proc_kill(int who)
{
	pidfd_send_signal(script.procs[who].pidfd, SIGKILL, NULL, 0);
	proc_gone(who);
}

static bool is_stopped(pid_t pid)
{
	char path[64], state;

	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	state = stat_state(path);
	return !state || state == 'T';
}

void proc_stop(int who, bool stop)
{
	struct proc *p = &script.procs[who];

	pidfd_send_signal(p->pidfd, stop ? SIGSTOP : SIGCONT, NULL, 0);
	for (int i = 0; i < 1000 && is_stopped(p->pid) != stop; i++)
		usleep(100);
	show(who, -1, stop ? "SIGSTOP" : "SIGCONT");
	script.stopped = stop ? who : -1;
}

void proc_end_all(void)
{
	for (int who = 0; who < WHO_MAX; who++)
		if (proc_alive(who)) {
			pidfd_send_signal(script.procs[who].pidfd, SIGKILL, NULL, 0);
			proc_gone(who);
		}
}

void post(int who, const struct order *o, int fd)
{
	if (!script.failed && channel_send(script.procs[who].channel, o, sizeof *o, fd))
		fail(who, "has ended by itself");
	if (fd >= 0)
		close(fd);
}

void hear(int who, const struct order *o, struct answer *a)
{
	struct pollfd p = {.fd = script.procs[who].channel, .events = POLLIN};
	char text[100];
	int fd;

	memset(a, 0, sizeof *a);
	a->r = -1;
	if (script.failed)
		return;
	snprintf(text, sizeof text, "order %u.%u on end %u: ", o->op, o->how, o->end);
	if (poll(&p, 1, ANSWER_MS) <= 0)
		fail(who, strcat(text, "no answer"));
	else if (channel_recv(p.fd, a, sizeof *a, &fd) != sizeof *a)
		fail(who, strcat(text, "has ended by itself"));
}

void ask(int who, const struct order *o, struct answer *a)
{
	post(who, o, -1);
	hear(who, o, a);
}

void perform(int who, const struct order *o, struct answer *a)
{
	ask(who, o, a);
	if (!script.failed)
		show(who, o->end, a->text);
}
