// PATH ROUNDS: a thread stores all the time, while others fork, vfork and execute this program again,
// and each of these uses the device too.
#include "registers.h"

static volatile long stop;

static void *worker(void *argument)
{
    (void)argument;
    long at = 0;
    while (!stop) {
        R32(COUNTERS) = 1;
        at++;
    }
    return (void *)at;
}

static void end_of(pid_t child)
{
    int status;
    CHECK(child > 0);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
}

int main(int argc, char **argv)
{
    CHECK(argc > 2);
    int rounds = atoi(argv[2]);
    map_registers(argv[1]);
    if (!rounds) { // executed again
        R32(COUNTERS + 16) = 1;
        return 0;
    }
    pthread_t thread;
    void *stored;
    CHECK(!pthread_create(&thread, NULL, worker, NULL));
    for (int at = 0; at < rounds; at++) {
        pid_t child = fork();
        if (!child) {
            R32(COUNTERS + 8) = 1;
            _exit(R32(0) != 0);
        }
        end_of(child);
        child = vfork();
        if (!child) {
            R32(COUNTERS + 12) = 1;
            execl(argv[0], argv[0], argv[1], "0", NULL);
            _exit(1);
        }
        end_of(child);
    }
    stop = 1;
    CHECK(!pthread_join(thread, &stored));
    printf("%ld\n", (long)stored);
    return 0;
}
