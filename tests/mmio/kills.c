// PATH ROUNDS: processes whose two threads store are killed in the midst of it. Each says how many
// stores it knows to be done; the device may know of one more of each thread.
#include "registers.h"

static volatile uint64_t *known; // shared with the parent

static void *worker(void *argument)
{
    long me = (long)argument;
    for (uint64_t at = known[me] + 1;; at++) {
        R64(COUNTERS + 8 * me) = 1;
        known[me] = at;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc > 2);
    int rounds = atoi(argv[2]);
    uint64_t more = 0;
    map_registers(argv[1]);
    known = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(known != MAP_FAILED);
    for (int at = 0; at < rounds; at++) {
        uint64_t before[2] = {known[0], known[1]};
        pid_t child = fork();
        CHECK(child >= 0);
        if (!child) {
            pthread_t other;
            CHECK(!pthread_create(&other, NULL, worker, (void *)1));
            worker((void *)0);
        }
        while (known[0] < before[0] + 5 || known[1] < before[1] + 5)
            sched_yield();
        struct timespec pause = {0, at * 7919 % 200000};
        nanosleep(&pause, NULL);
        CHECK(!kill(child, SIGKILL));
        int status;
        CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        more += 2;
    }
    printf("%lu %lu %lu\n", known[0], known[1], more / 2);
    return 0;
}
