// PATH COUNT: a process stores to and loads from a counter COUNT times, in each of two threads,
// while another one stops it and lets it go on, again and again.
#include "registers.h"

static long count;

static void *worker(void *argument)
{
    long me = (long)argument;
    for (long at = 1; at <= count; at++) {
        R32(COUNTERS + 8 * me) = at;
        if (R32(COUNTERS + 8 * me) != at) {
            printf("thread %ld: not the load number %ld\n", me, at);
            exit(1);
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc > 2);
    count = atol(argv[2]);
    map_registers(argv[1]);
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        pthread_t other;
        CHECK(!pthread_create(&other, NULL, worker, (void *)1));
        worker((void *)0);
        CHECK(!pthread_join(other, NULL));
        exit(0);
    }
    long stops = 0;
    for (;; stops++) {
        int status;
        CHECK(!kill(child, SIGSTOP));
        pid_t told = waitpid(child, &status, WUNTRACED);
        CHECK(told == child);
        if (!WIFSTOPPED(status)) {
            CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
            break;
        }
        CHECK(WSTOPSIG(status) == SIGSTOP);
        CHECK(!kill(child, SIGCONT));
        struct timespec pause = {0, 300000};
        nanosleep(&pause, NULL);
    }
    CHECK(stops > 2);
    printf("done\n");
    return 0;
}
