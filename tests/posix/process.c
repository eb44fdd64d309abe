// SPDX-License-Identifier: GPL-2.0-or-later
/* Children, and what each process reads and writes. */
#include <sys/wait.h>

#include "tests/posix/process.h"

static char buf[100];

void process_read(const char *who, int fd)
{
	tell_data(read(fd, buf, sizeof(buf)), buf, "%s: read", who);
}

void process_write(const char *who, int fd, const char *text)
{
	tell(write(fd, text, strlen(text)), "%s: write(%zu)", who, strlen(text));
}

pid_t child_new(void)
{
	pid_t pid = fork();

	if (pid < 0)
		fatal("fork: %s", strerror(errno));
	if (!pid)
		alarm(20);
	return pid;
}

void child_end(pid_t pid)
{
	int status = -1;

	if (waitpid(pid, &status, 0) != pid)
		say("waitpid: %s", err_name(errno));
	else if (WIFSIGNALED(status))
		say("child ended by SIG%s", sigabbrev_np(WTERMSIG(status)));
	else
		say("child ended with %d", WEXITSTATUS(status));
}

const char *image_path(bool is_static)
{
	static char path[300];
	const char *dir = getenv("POSIX_BUILD");

	snprintf(path, sizeof(path), "%s/posix_image%s", dir ? dir : ".", is_static ? "_static" : "");
	return path;
}
