// PATH COUNT INTERVAL: four threads, each with a counter of its own in one page that it stores to
// and loads from COUNT times, under a signal each INTERVAL microseconds, whose handler uses one
// more. The n-th load of a counter gives n: one that was made twice, or not, shows.
#include "registers.h"
#include <sys/time.h>

static long count, bad;
static volatile long alarms;

static void *worker(void *argument)
{
    long me = (long)argument;
    for (long at = 1; at <= count; at++) {
        R32(COUNTERS + 8 * me) = at;
        if (R32(COUNTERS + 8 * me) != at)
            __sync_fetch_and_add(&bad, 1);
    }
    return NULL;
}

static void handler(int number)
{
    (void)number;
    // One thread at a time is in here, so its loads are in order.
    static volatile int busy;
    if (__sync_lock_test_and_set(&busy, 1))
        return;
    long now = ++alarms;
    R32(COUNTERS + 0x40) = now;
    if (R32(COUNTERS + 0x40) != now)
        __sync_fetch_and_add(&bad, 1);
    __sync_lock_release(&busy);
}

int main(int argc, char **argv)
{
    CHECK(argc > 3);
    count = atol(argv[2]);
    long interval = atol(argv[3]);
    map_registers(argv[1]);
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    CHECK(!sigaction(SIGALRM, &action, NULL));
    struct itimerval timer = {{0, interval}, {0, interval}};
    CHECK(!setitimer(ITIMER_REAL, &timer, NULL));
    pthread_t threads[4];
    for (long at = 0; at < 4; at++)
        CHECK(!pthread_create(&threads[at], NULL, worker, (void *)at));
    for (int at = 0; at < 4; at++)
        CHECK(!pthread_join(threads[at], NULL));
    timer = (struct itimerval){{0, 0}, {0, 0}};
    CHECK(!setitimer(ITIMER_REAL, &timer, NULL));
    printf("%ld bad, %ld alarms\n", bad, alarms);
    return 0;
}
