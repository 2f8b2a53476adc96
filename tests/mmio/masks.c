// Whatever a program has done about SIGBUS is as it was, after an access of each kind. And where an access
// cannot be carried out, SIGBUS cannot be kept away by it, as on Linux.
#include "registers.h"

#define NOTHING 0xF000

static volatile int called;
static volatile uint32_t in_handler;

static void handler(int number)
{
    (void)number;
    called++;
}

static void access_of_its_own(int number)
{
    (void)number;
    R32(0x20) = 0x1234;
    in_handler = R32(0x20);
}

// One by the decoder that loads, one that stores, one that does both, a string and one by trial.
static void accesses(int at)
{
    uint32_t product = 3;
    void *to = (void *)(registers + 0x14);
    R32(0x10) = at;
    CHECK(R32(0x10) == (uint32_t)at);
    __asm__ volatile("addl $5, %0" : "+m"(R32(0x10))::"cc");
    __asm__ volatile("stosb" : "+D"(to) : "a"(1) : "memory");
    __asm__ volatile("imull %1, %0" : "+r"(product) : "m"(R32(0x10)) : "cc");
    CHECK(product == 3 * ((uint32_t)at + 5));
}

static void block(int blocked)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    CHECK(!pthread_sigmask(blocked ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL));
}

static void check(void (*disposition)(int), int blocked)
{
    sigset_t before, after;
    struct sigaction action = {.sa_handler = disposition, .sa_flags = SA_RESTART}, now;
    memset(&before, 0, sizeof before); // of which nobody else writes more than the first eight bytes
    memset(&after, 0, sizeof after);
    CHECK(!sigaction(SIGBUS, &action, NULL));
    block(blocked);
    CHECK(!sigprocmask(SIG_BLOCK, NULL, &before));
    for (int at = 0; at < 20; at++)
        accesses(at);
    CHECK(!sigprocmask(SIG_BLOCK, NULL, &after));
    CHECK(!memcmp(&before, &after, sizeof before) && sigismember(&after, SIGBUS) == blocked);
    CHECK(!sigaction(SIGBUS, NULL, &now));
    CHECK(now.sa_handler == disposition && (disposition == SIG_DFL || now.sa_flags & SA_RESTART));
    CHECK(!called);
}

static void *with_mask(void *blocked)
{
    sigset_t set;
    block(blocked != NULL);
    for (int at = 0; at < 50; at++) {
        R32(0x30) = at;
        CHECK(!pthread_sigmask(SIG_BLOCK, NULL, &set));
        CHECK(sigismember(&set, SIGBUS) == (blocked != NULL));
    }
    return NULL;
}

// Each thread has a mask of its own.
static void threads(void)
{
    pthread_t of[4];
    for (uintptr_t at = 0; at < 4; at++)
        CHECK(!pthread_create(&of[at], NULL, with_mask, (void *)(at & 1)));
    for (int at = 0; at < 4; at++)
        CHECK(!pthread_join(of[at], NULL));
    CHECK(!called);
}

// A SIGBUS that somebody sent, and that is blocked, waits on, and comes once.
static void pending(void)
{
    sigset_t set;
    siginfo_t info;
    struct timespec at_once = {0};
    CHECK(signal(SIGBUS, handler) != SIG_ERR);
    block(1);
    CHECK(!raise(SIGBUS));
    accesses(1);
    CHECK(!sigpending(&set) && sigismember(&set, SIGBUS) && !called);
    block(0);
    CHECK(called == 1);
    block(1);
    CHECK(!kill(getpid(), SIGBUS));
    accesses(2);
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    CHECK(sigtimedwait(&set, &info, &at_once) == SIGBUS && info.si_code == SI_USER && info.si_pid == getpid());
    CHECK(sigtimedwait(&set, &info, &at_once) == -1 && errno == EAGAIN);
    block(0);
    CHECK(called == 1);
    called = 0;
}

// While SIGBUS is handled it is blocked.
static void handled(void)
{
    CHECK(signal(SIGBUS, access_of_its_own) != SIG_ERR);
    block(0);
    CHECK(!raise(SIGBUS));
    CHECK(in_handler == 0x1234);
}

static void refused(void (*disposition)(int), int blocked)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        signal(SIGBUS, disposition);
        block(blocked);
        R32(NOTHING) = 1;
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

int main(int argc, char **argv)
{
    (void)argc;
    map_registers(argv[1]);
    for (int blocked = 0; blocked < 2; blocked++) {
        check(SIG_DFL, blocked);
        check(SIG_IGN, blocked);
        check(handler, blocked);
    }
    block(0);
    threads();
    pending();
    handled();
    refused(SIG_DFL, 0);
    refused(SIG_DFL, 1);
    refused(SIG_IGN, 0);
    refused(SIG_IGN, 1);
    refused(handler, 1);
    puts("done");
    return 0;
}
