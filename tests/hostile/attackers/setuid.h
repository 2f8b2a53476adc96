/* SPDX-License-Identifier: MIT */
/* Where the set-user-ID program has nothing but zeros. Linked there: -Wl,--section-start=.guard=ADDRESS. */
#ifndef SETUID_H
#define SETUID_H

#define GUARD 0x20000000UL
#define GUARD_SIZE (16 * 4096UL)
#define GUARD_BROKEN 9 /* exit status: something was written there */

#endif
