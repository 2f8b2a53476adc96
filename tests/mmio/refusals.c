// What cannot be carried out is SIGBUS, at the address that was touched, and does no harm.
#include "registers.h"
#include <setjmp.h>
#include <sys/ptrace.h>

#define NOTHING 0xF000

static sigjmp_buf back;
static void *volatile fault;
static volatile int code;

static void handler(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    fault = info->si_addr;
    code = info->si_code;
    siglongjmp(back, 1);
}

#define SIGBUS_OF(address, ...)                                                                    \
    do {                                                                                           \
        fault = NULL;                                                                              \
        if (!sigsetjmp(back, 1)) {                                                                 \
            __VA_ARGS__;                                                                           \
            CHECK(!"it was carried out");                                                          \
        }                                                                                          \
        CHECK(fault == (void *)(address) && code == BUS_ADRERR);                                   \
    } while (0)

static void traced(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        signal(SIGBUS, SIG_DFL);
        CHECK(!ptrace(PTRACE_TRACEME, 0, 0, 0));
        R32(COUNTERS) = 1;
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGBUS);
    CHECK(!kill(child, SIGKILL));
    CHECK(waitpid(child, &status, 0) == child);
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    uint32_t value;
    (void)argc;
    map_registers(argv[1]);
    CHECK(!sigaction(SIGBUS, &action, NULL));

    for (int at = 0; at < 3; at++) {
        SIGBUS_OF(registers + NOTHING + 0x10, R32(NOTHING + 0x10) = 1);
        SIGBUS_OF(registers + NOTHING + 0x20, value = R32(NOTHING + 0x20));
        SIGBUS_OF(registers + NOTHING + 0x30, __asm__ volatile("imull %1, %0" : "=r"(value) : "m"(R32(NOTHING + 0x30))));
        R32(0x10) = at;
        CHECK(R32(0x10) == (uint32_t)at);
    }
    // The processor raises a signal of its own there.
    SIGBUS_OF(registers + 0x40, __asm__ volatile("divl %0" ::"m"(R32(0x40)), "a"(1), "d"(0) : "cc"));
    // The device has no code.
    SIGBUS_OF(registers + 0x50, ((void (*)(void))(registers + 0x50))());
    // What the kernel touches for it.
    int fd = open("/dev/null", O_WRONLY), pipes[2];
    CHECK(!pipe(pipes) && fd >= 0);
    CHECK(write(pipes[1], (void *)(registers + 0x10), 4) == -1 && errno == EFAULT);
    CHECK(write(pipes[1], "abcd", 4) == 4);
    CHECK(read(pipes[0], (void *)(registers + 0x10), 4) == -1 && errno == EFAULT);
    traced();
    CHECK(R32(0x10) == 2);
    puts("done");
    return 0;
}
