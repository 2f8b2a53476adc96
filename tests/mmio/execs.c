// PATH ROUNDS: executes itself again and again, while two of its threads use the device.
#include "registers.h"

static void *worker(void *argument)
{
    long me = (long)argument;
    for (;;)
        R32(0x100 * me) = R32(0x100 * me + 4) + 1;
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc > 2);
    int rounds = atoi(argv[2]);
    map_registers(argv[1]);
    R32(COUNTERS) = 1;
    if (!rounds) {
        puts("done");
        return 0;
    }
    pthread_t threads[2];
    for (long at = 0; at < 2; at++)
        CHECK(!pthread_create(&threads[at], NULL, worker, (void *)at));
    struct timespec pause = {0, rounds * 7919 % 500000};
    nanosleep(&pause, NULL);
    char next[16];
    snprintf(next, sizeof next, "%d", rounds - 1);
    execl(argv[0], argv[0], argv[1], next, NULL);
    return 1;
}
