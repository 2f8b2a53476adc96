// One access of each kind; what the device has been asked is checked by the caller, line by line.
#include "registers.h"
#include <immintrin.h>

static void plain(void)
{
    R8(0x11) = 0xA5;
    R16(0x22) = 0xBEEF;
    R32(0x34) = 0x12345678;
    R64(0x48) = 0x1122334455667788;
    CHECK(R8(0x11) == 0xA5);
    CHECK(R16(0x22) == 0xBEEF);
    CHECK(R32(0x34) == 0x12345678);
    CHECK(R64(0x48) == 0x1122334455667788);
    CHECK(*(volatile int8_t *)(registers + 0x11) == (int8_t)0xA5);
}

static void modified(void)
{
    uint32_t old = 5;
    R32(0x60) = 40;
    __asm__ volatile("lock xaddl %0, %1" : "+r"(old), "+m"(R32(0x60)));
    CHECK(old == 40 && R32(0x60) == 45);
    CHECK(__sync_val_compare_and_swap(&R32(0x60), 45, 7) == 45);
    CHECK(__sync_val_compare_and_swap(&R32(0x60), 45, 8) == 7);
    CHECK(__sync_lock_test_and_set(&R32(0x60), 9) == 7);
    __asm__ volatile("lock orl $0x80, %0" : "+m"(R32(0x60)));
    CHECK(R32(0x60) == 0x89);
    // As a compiler does it with a struct that is not volatile.
    uint8_t zero, carry;
    __asm__ volatile("andl $0xfffffffe, %0" : "+m"(R32(0x60))::"cc");
    __asm__ volatile("testb $0x77, %1; setz %0" : "=q"(zero) : "m"(R8(0x60)) : "cc");
    CHECK(zero == 1);
    __asm__ volatile("cmpw %2, %1; setc %0" : "=q"(carry) : "m"(R16(0x60)), "r"((uint16_t)0x89) : "cc");
    CHECK(carry == 1);
    __asm__ volatile("subl $0x89, %1; sbbb $0, %0" : "+m"(R8(0x68)), "+m"(R32(0x60))::"cc");
    CHECK(R32(0x60) == 0xFFFFFFFF && R8(0x68) == 0xFF);
}

static void strings(void)
{
    const char *from = "rep movsb";
    void *to = (void *)(registers + 0x100);
    size_t count = 9;
    char back[9];
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
    CHECK(count == 0 && to == registers + 0x109);
    void *source = (void *)(registers + 0x100), *target = back;
    count = 9;
    __asm__ volatile("rep movsb" : "+D"(target), "+S"(source), "+c"(count)::"memory");
    CHECK(!memcmp(back, "rep movsb", 9));
    to = (void *)(registers + 0x120);
    count = 3;
    __asm__ volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(0x01020304) : "memory");
    source = (void *)(registers + 0x120), to = (void *)(registers + 0x1FFC), count = 2;
    __asm__ volatile("rep movsl" : "+D"(to), "+S"(source), "+c"(count)::"memory");
}

static void many(void)
{
    void *to = (void *)(registers + 0x400);
    size_t count = 600;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(7) : "memory");
    CHECK(!count && to == registers + 0x400 + 600);
}

__attribute__((target("avx"))) static void vectors(void)
{
    uint8_t bytes[32], back[32];
    for (int at = 0; at < 32; at++)
        bytes[at] = at * 7;
    __m256i wide = _mm256_loadu_si256((void *)bytes);
    __asm__ volatile("vmovdqu %1, %0" : "=m"(*(volatile __m256i *)(registers + 0x200)) : "x"(wide));
    __asm__ volatile("vmovdqa %1, %0" : "=x"(wide) : "m"(*(volatile __m256i *)(registers + 0x200)));
    _mm256_storeu_si256((void *)back, wide);
    CHECK(!memcmp(bytes, back, 32));
    __m128i half = _mm_loadu_si128((void *)(bytes + 8));
    __asm__ volatile("movntdq %1, %0" : "=m"(*(volatile __m128i *)(registers + 0x240)) : "x"(half));
    __asm__ volatile("movups %1, %0" : "=x"(half) : "m"(*(volatile __m128i *)(registers + 0x240)));
    _mm_storeu_si128((void *)back, half);
    CHECK(!memcmp(bytes + 8, back, 16));
}

// Whatever the C library takes for it on this processor.
static void copies(void)
{
    uint8_t bytes[200], back[200];
    void *(*volatile copy)(void *, const void *, size_t) = memcpy;
    for (int at = 0; at < 200; at++)
        bytes[at] = at * 7;
    for (size_t size = 1; size <= 200; size += 13) {
        copy((void *)(registers + 0x300), bytes, size);
        memset(back, 0, sizeof back);
        copy(back, (void *)(registers + 0x300), size);
        CHECK(!memcmp(bytes, back, size));
    }
}

static void straddling(void)
{
    R32(0x2FFE) = 0xCAFEBABE;
    CHECK(R32(0x2FFE) == 0xCAFEBABE);
    // Page 3 of the file, then page 1, then memory of our own.
    uint8_t *place = mmap(NULL, 0x3000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(place != MAP_FAILED);
    for (int at = 0; at < 2; at++)
        CHECK(mmap(place + 0x1000 * at, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, device, at ? 0x1000 : 0x3000) !=
              MAP_FAILED);
    volatile uint64_t *across = (void *)(place + 0xFFD), *half = (void *)(place + 0x1FFC);
    *across = 0x8877665544332211;
    CHECK(*across == 0x8877665544332211);
    *half = 0x0807060504030201;
    CHECK(*(volatile uint32_t *)(place + 0x2000) == 0x08070605);
    CHECK(*half == 0x0807060504030201);
}

int main(int argc, char **argv)
{
    map_registers(argv[1]);
    for (int at = 2; at < argc; at++) {
        if (!strcmp(argv[at], "plain"))
            plain();
        if (!strcmp(argv[at], "modified"))
            modified();
        if (!strcmp(argv[at], "strings"))
            strings();
        if (!strcmp(argv[at], "many"))
            many();
        if (!strcmp(argv[at], "vectors"))
            vectors();
        if (!strcmp(argv[at], "copies"))
            copies();
        if (!strcmp(argv[at], "straddling"))
            straddling();
    }
    puts("done");
    return 0;
}
