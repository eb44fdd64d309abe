// SPDX-License-Identifier: GPL-2.0-or-later
/* The lists of cases; those of every read and write call and of every option are made by their files. */
#include "tests/posix/posix.h"

extern const struct test_case cases_flags[], cases_close[], cases_epoll[], cases_epoll_sets[], cases_poll[],
	cases_dup[], cases_fork[], cases_exec[], cases_pass[], cases_option[], cases_connect[], cases_move[],
	cases_thread[], cases_uring[], cases_sandbox[], cases_split[], cases_buffer[], cases_streams[], cases_ends[];

const struct test_case *const case_lists[] = {
	cases_flags,   cases_close, cases_epoll,  cases_epoll_sets, cases_poll, cases_dup,    cases_fork,
	cases_exec,    cases_pass,  cases_option, cases_connect,    cases_move, cases_thread, cases_uring,
	cases_sandbox, cases_split, cases_buffer, cases_streams,    cases_ends, NULL,
};

const struct test_case *(*const case_matrices[])(void) = {matrix_read, matrix_write, matrix_option, NULL};
