/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Model of the sleep and wake protocol: service/ipc/bell.h, the armed flag and the eventfd.
 * Two sleepers, two ringers, one word of a bell with a bit for each ringer, and its summary.
 * Verified by spin (tests/unit/test_bell_model.py), which also shows that each part is needed.
 *
 * Stores reach memory late: a store that nothing orders lies in its process's buffer until the
 * process Memory, or a fence, moves it. An atomic exchange or fetch_or is such a fence itself.
 *
 * The service rings and the application sleeps (app_wake(), ep_wait(), wait_sock()): the ringer
 * takes the flag and writes the eventfd. With DOORBELL it is the other way round (core_ring(),
 * thread_sleep()): one sleeper, which clears its flag itself.
 *
 *	SHARED        both sleepers wait in one epoll instance: a write wakes one of them, and the one
 *	              that leaves with news never comes back (ep_hand_on())
 *	DEATH         the first ringer is a thread of the application (core_ring(), stream.c), which may be
 *	              killed or leave by longjmp between any two steps; so it never takes the flag
 *	DOORBELL      see above
 * Broken on purpose, each must be found out:
 *	NO_SECOND_LOOK, NO_SLEEPER_FENCE, NO_RINGER_FENCE, NO_HAND_ON (with SHARED),
 *	SUMMARY_LAST  the taker clears the summary after it has emptied the word
 *	DEATH_TAKES   with DEATH: it takes the flag before it writes, as the service may
 */
#define RINGS(r) (2 - r) /* the first rings twice, the second once */
#ifdef DOORBELL
#define SLEEPERS 1
#else
#define SLEEPERS 2
#endif

byte word;                 /* bit r: ringer r has news */
bool summary, armed;
bool edge[2];              /* an edge of the eventfd waits in epoll instance s */
byte news[2], seen[2];     /* what ringer r has published; what has been looked at */
byte rung[2];              /* what of it has been rung completely */
bool armed_late[2];        /* sleeper s: its store armed = 1 is in the buffer */
bool word_late[2];         /* ringer r: its bit is in the buffer */
bool asleep[2], gone[2];
byte finished;
bool dead;

#ifdef SHARED
#define SET(s) 0
#else
#define SET(s) s
#endif

inline write_eventfd()
{
	d_step {
		edge[0] = true;
		edge[1] = true
	}
}

/* armed = 1; fence */
inline arm(s)
{
	armed_late[s] = true;
#ifndef NO_SLEEPER_FENCE
	!armed_late[s];
#endif
}

/* The flag as process s sees it. */
#define ARMED_BY(s) (armed || armed_late[s])

proctype Memory()
{
end:	do
	:: atomic { armed_late[0] -> armed = true; armed_late[0] = false }
	:: atomic { armed_late[1] -> armed = true; armed_late[1] = false }
	:: atomic { word_late[0] -> word = word | 1; word_late[0] = false }
	:: atomic { word_late[1] -> word = word | 2; word_late[1] = false }
	od
}

#if defined(DEATH) && !defined(DEATH_TAKES)
#define TAKES(r) (r == 1)
#else
#define TAKES(r) true
#endif

#ifdef DEATH
#define MAY_DIE :: r == 0 && !dead -> dead = true; goto killed
#else
#define MAY_DIE
#endif
#define STEP(x) if :: x MAY_DIE fi

proctype Ringer(byte r)
{
	byte n = 0;
	bool was;

	do
	:: n == RINGS(r) -> break
	:: n < RINGS(r) ->
		n++;
		STEP(news[r]++);
#ifdef NO_RINGER_FENCE
		STEP(word_late[r] = true);
#else
		STEP(word = word | (1 << r)); /* fetch_or: a full fence */
#endif
		if
		:: summary
		:: !summary -> STEP(summary = true)
		fi;
		rung[r] = news[r];
		if
		:: !armed
		:: armed ->
#ifdef DOORBELL
			STEP(write_eventfd())
#else
			STEP(atomic { was = armed; armed = armed && !TAKES(r) });
			if
			:: was -> STEP(write_eventfd())
			:: else
			fi
#endif
		fi
	od;
killed:
	finished++
}

/* bell_take() with room for one: a bit that is not taken goes back. */
inline take(s)
{
	taken = 0;
	if
	:: !summary
	:: summary ->
#ifndef SUMMARY_LAST
		summary = false;
#endif
		d_step { bits = word; word = 0 }; /* exchange */
#ifdef SUMMARY_LAST
		summary = false;
#endif
		if
		:: bits & 1 -> taken = 1; bits = bits & 2
		:: bits == 2 -> taken = 2; bits = 0
		:: else
		fi;
		if
		:: bits -> word = word | bits; summary = true
		:: else
		fi
	fi;
	if
	:: taken -> seen[taken - 1] = news[taken - 1]
	:: else
	fi
}

proctype Sleeper(byte s)
{
	byte bits, taken;

look:
	take(s);
	if
	:: taken ->
#ifdef SHARED
		/* leaves with events: for ever */
#ifndef NO_HAND_ON
		arm(s);
		if
		:: summary -> write_eventfd()
		:: else
		fi;
#endif
		goto leave;
#else
		goto look
#endif
	:: else
	fi;
	arm(s);
#ifndef NO_SECOND_LOOK
	if
	:: summary -> goto look
	:: else
	fi;
#endif
	asleep[s] = true;
end:	edge[SET(s)];
	d_step { asleep[s] = false; edge[SET(s)] = false };
#ifdef DOORBELL
	armed = false;
#endif
	goto look;
leave:
	gone[s] = true
}

/*
 * When nothing can move any more and somebody still sleeps, everything that was rung has been
 * seen. With DEATH: whatever the survivor rang, and with it the word of the one that was killed.
 */
proctype Judge()
{
end:	timeout;
	assert(!armed_late[0] && !armed_late[1]);
#ifdef SHARED
	if
	:: gone[0] && gone[1] -> goto out
	:: else
	fi;
#endif
#ifdef DEATH
	assert(seen[1] == rung[1]);
	assert(dead || (seen[0] == news[0] && word == 0))
#else
	assert(finished == 2);
	assert(seen[0] == news[0] && seen[1] == news[1] && word == 0)
#endif
out:
	skip
}

init
{
	atomic {
		run Memory();
		run Ringer(0);
		run Ringer(1);
		run Sleeper(0);
		if
		:: SLEEPERS == 2 -> run Sleeper(1)
		:: else
		fi;
		run Judge()
	}
}
