// PATH COUNT: a process that a debugger traces stores to and loads from a register COUNT times, and
// waits each time until the device knows: nobody tells it when the page is taken back.
#include "registers.h"
#include <sys/ptrace.h>

static void wait_for(off_t offset, uint32_t value)
{
    uint32_t found;
    do
        CHECK(pread(device, &found, sizeof found, offset) == sizeof found);
    while (found != value);
}

int main(int argc, char **argv)
{
    CHECK(argc > 2);
    uint32_t count = atoi(argv[2]);
    map_registers(argv[1]);
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        CHECK(!ptrace(PTRACE_TRACEME, 0, 0, 0));
        for (uint32_t at = 1; at <= count; at++) {
            R32(0x1024) = at * 0x01010101;
            CHECK(R32(0x1024) == at * 0x01010101);
            wait_for(0x1024, at * 0x01010101);
        }
        R16(0x1102) = 0x1234;
        wait_for(0x1100, 0x12340000);
        exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
    CHECK(R16(0x1102) == 0x1234);
    puts("done");
    return 0;
}
