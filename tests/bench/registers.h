/* SPDX-License-Identifier: MIT */
/* What registers.c and registers_peer.c agree on: the registers of edu that are touched. */
#ifndef BENCH_REGISTERS_H
#define BENCH_REGISTERS_H

#include <linux/vfio.h>
#include <stdint.h>

#define IDENTIFICATION 0x010000edu /* of 4 bytes at 0 */
#define SCRATCH 0x04 /* a store does nothing else than to be there */
#define RAISE 0x60 /* a store interrupts */

#endif
