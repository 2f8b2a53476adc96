// An instruction that reaches from one page of code into the next, wherever it is cut.
#include "registers.h"

int main(int argc, char **argv)
{
    (void)argc;
    map_registers(argv[1]);
    // mov $0x11223344, 0x10(%rdi); ret
    static const uint8_t code[] = {0xC7, 0x87, 0x10, 0, 0, 0, 0x44, 0x33, 0x22, 0x11, 0xC3};
    for (unsigned cut = 1; cut < 10; cut++) {
        for (int alone = 0; alone < 2; alone++) {
            uint8_t *page = mmap(NULL, 0x3000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            CHECK(page != MAP_FAILED);
            uint8_t *at = alone ? page + 0x2000 - sizeof code : page + 0x1000 - cut;
            memcpy(at, code, sizeof code);
            CHECK(!mprotect(page, 0x2000, PROT_READ | PROT_EXEC));
            CHECK(!munmap(page + 0x2000, 0x1000)); // there is nothing behind it
            ((void (*)(volatile uint8_t *))at)(registers);
            CHECK(!munmap(page, 0x2000));
        }
    }
    puts("done");
    return 0;
}
