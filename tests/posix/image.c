// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * posix_image FD TALK...
 *
 * The program that cases exec with an inherited connection: dynamic, so that the library may be
 * loaded into it, and the same as a static image. For each TALK: "r N" reads N bytes and says
 * them, "w TEXT" writes, "c" closes, "e" reads the end of the stream, "p" takes a descriptor
 * passed over FD, to go on with. Streams of a pattern: "R N" reads N bytes of the peer's, "W N" writes
 * N bytes of its own, "F N" and "P N" do that by stdio's standard input and output. Stdio: "l" reads a line, "t TEXT"
 * prints, "f" flushes, "n" tells of the streams' numbers and buffers, "o" opens standard input anew, "q" and "Q" close
 * the streams; "x" ends the process without a flush. Says what it does on the transcript's descriptor, which is inherited.
 */
#include "tests/posix/posix.h"

#define OUT_FD 201
#define PIECE 8192
#define SEED_IN 1 /* as PEER_PUMP sends */
#define SEED_OUT 2

static void told(const char *what, long ret, const char *data)
{
	char line[200];
	int n;

	if (ret < 0)
		n = snprintf(line, sizeof(line), "image: %s = -1 %s\n", what, strerrorname_np(errno));
	else if (data && ret)
		n = snprintf(line, sizeof(line), "image: %s = %ld \"%.*s\"\n", what, ret, (int)ret, data);
	else
		n = snprintf(line, sizeof(line), "image: %s = %ld\n", what, ret);
	if (write(OUT_FD, line, (size_t)n) != n)
		_exit(3);
}

/* The descriptor that comes over the unix socket @from. */
static int take(int from)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr h;
	} u;
	char byte;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u)};
	int fd = -1;

	if (recvmsg(from, &m, 0) == 1 && CMSG_FIRSTHDR(&m))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

/* ---- streams ---- */

static uint64_t in_at, out_at;
static char piece[PIECE], want[PIECE];

static void stream_in(int fd, size_t left, bool by_stdio)
{
	bool right = true;
	size_t total = 0;

	while (left) {
		size_t most = left < PIECE ? left : PIECE;
		ssize_t n = by_stdio ? (ssize_t)fread(piece, 1, most, stdin) : read(fd, piece, most);

		if (n <= 0)
			break;
		pattern_fill(want, (size_t)n, SEED_IN, in_at);
		right = right && !memcmp(piece, want, (size_t)n);
		in_at += (size_t)n;
		total += (size_t)n;
		left -= (size_t)n;
	}
	told(right ? "read, right" : "read, wrong", (long)total, NULL);
}

static void stream_out(int fd, size_t left, bool by_stdio)
{
	size_t total = 0;

	while (left) {
		/* by stdio in odd pieces, some of them larger than its buffer */
		size_t most = by_stdio ? 1 + out_at % 7001 : PIECE, len = left < most ? left : most;
		ssize_t n;

		pattern_fill(piece, len, SEED_OUT, out_at);
		n = by_stdio ? (ssize_t)fwrite(piece, 1, len, stdout) : write(fd, piece, len);
		if (n <= 0)
			break;
		out_at += (size_t)n;
		total += (size_t)n;
		left -= (size_t)n;
	}
	told("written", (long)total, NULL);
}

/* ---- stdio ---- */

static void numbers(void)
{
	told("fileno(stdin)", fileno(stdin), NULL);
	told("fileno(stdout)", fileno(stdout), NULL);
	told("seek", fseek(stdin, 0, SEEK_CUR), NULL);
	told("isatty", isatty(fileno(stdout)), NULL);
	told("setvbuf", setvbuf(stdout, NULL, _IOLBF, 0), NULL);
}

/* Returns false if @talk is none of stdio's. */
static bool stdio_talk(const char *talk)
{
	char line[100];

	switch (talk[0]) {
	case 'l':
		told("fgets", fgets(line, sizeof(line), stdin) ? (long)strcspn(line, "\n") : 0, line);
		return true;
	case 't':
		told("printf", printf("%s", talk + 1), NULL);
		return true;
	case 'f':
		told("fflush", fflush(stdout), NULL);
		return true;
	case 'n':
		numbers();
		return true;
	case 'o':
		told("freopen", freopen("/dev/null", "r", stdin) ? 1 : 0, NULL);
		told("getchar", getchar() == EOF, NULL);
		return true;
	case 'q':
		told("fclose(stdin)", fclose(stdin), NULL);
		return true;
	case 'Q':
		told("fclose(stdout)", fclose(stdout), NULL);
		return true;
	default:
		return false;
	}
}

int main(int argc, char **argv)
{
	int fd = argc > 1 ? atoi(argv[1]) : -1;
	char buf[100];

	alarm(10);
	for (int i = 2; i < argc; i++) {
		size_t n = strtoul(argv[i] + 1, NULL, 10);

		if (stdio_talk(argv[i]))
			continue;
		if (argv[i][0] == 'R' || argv[i][0] == 'F')
			stream_in(fd, n, argv[i][0] == 'F');
		else if (argv[i][0] == 'W' || argv[i][0] == 'P')
			stream_out(fd ? fd : 1, n, argv[i][0] == 'P');
		else if (argv[i][0] == 'x')
			_exit(8);
		else if (argv[i][0] == 'r')
			told("recv", recv(fd, buf, (size_t)atoi(argv[i] + 1) % sizeof(buf), MSG_WAITALL), buf);
		else if (argv[i][0] == 'e')
			told("read", read(fd, buf, sizeof(buf)), buf);
		else if (argv[i][0] == 'w')
			told("write", write(fd, argv[i] + 1, strlen(argv[i] + 1)), NULL);
		else if (argv[i][0] == 'p')
			fd = take(fd);
		else if (argv[i][0] == 'c')
			told("close", close(fd), NULL);
	}
	return 7;
}
