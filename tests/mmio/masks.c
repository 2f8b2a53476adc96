// Whatever a program has done about SIGBUS is as it was, after an access of each kind.
#include "registers.h"

static volatile int called;

static void handler(int number)
{
    (void)number;
    called++;
}

static void check(void (*disposition)(int), int blocked)
{
    sigset_t set, before, after;
    struct sigaction action = {.sa_handler = disposition, .sa_flags = SA_RESTART}, now;
    sigemptyset(&set);
    memset(&before, 0, sizeof before); // of which nobody else writes more than the first eight bytes
    memset(&after, 0, sizeof after);
    sigaddset(&set, SIGBUS);
    CHECK(!sigaction(SIGBUS, &action, NULL));
    CHECK(!sigprocmask(blocked ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL));
    CHECK(!sigprocmask(SIG_BLOCK, NULL, &before));
    for (int at = 0; at < 20; at++) {
        R32(0x10) = at;
        CHECK(R32(0x10) == (uint32_t)at);
    }
    CHECK(!sigprocmask(SIG_BLOCK, NULL, &after));
    CHECK(!memcmp(&before, &after, sizeof before) && sigismember(&after, SIGBUS) == blocked);
    CHECK(!sigaction(SIGBUS, NULL, &now));
    CHECK(now.sa_handler == disposition && (disposition == SIG_DFL || now.sa_flags & SA_RESTART));
    CHECK(!called);
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
    puts("done");
    return 0;
}
