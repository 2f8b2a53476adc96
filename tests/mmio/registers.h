// What the clients share: the device's registers, mapped.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SIZE 0x10000
#define COUNTERS 0x8000

static volatile uint8_t *registers;
static int device;

#define R8(offset) (*(volatile uint8_t *)(registers + (offset)))
#define R16(offset) (*(volatile uint16_t *)(registers + (offset)))
#define R32(offset) (*(volatile uint32_t *)(registers + (offset)))
#define R64(offset) (*(volatile uint64_t *)(registers + (offset)))

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            printf("%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #what, strerror(errno));        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static inline void map_registers(const char *path)
{
    device = open(path, O_RDWR | O_CLOEXEC);
    CHECK(device >= 0);
    registers = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
    CHECK(registers != MAP_FAILED);
}

static inline double microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}
