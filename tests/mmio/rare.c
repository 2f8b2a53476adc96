// Instructions that the decoder does not know: the processor carries them out, elsewhere.
#include "registers.h"
#include <immintrin.h>

static void general(void)
{
    uint32_t value = 6;
    uint64_t wide;
    uint8_t flag;
    R32(0x10) = 7;
    __asm__ volatile("imull %1, %0" : "+r"(value) : "m"(R32(0x10)));
    CHECK(value == 42);
    __asm__ volatile("shll $4, %0" : "+m"(R32(0x10)));
    CHECK(R32(0x10) == 0x70);
    __asm__ volatile("popcntl %1, %0" : "=r"(value) : "m"(R32(0x10)));
    CHECK(value == 3);
    __asm__ volatile("push %1; pop %0" : "=r"(wide) : "m"(R64(0x10)));
    CHECK(wide == 0x70);
    __asm__ volatile("push %1; pop %0" : "=m"(R64(0x20)) : "r"(0x1234567890UL));
    CHECK(R64(0x20) == 0x1234567890);
    __asm__ volatile("cmpl %%eax, %%eax; sete %0" : "=m"(R8(0x30)));
    CHECK(R8(0x30) == 1);
    __asm__ volatile("xorl %%edx, %%edx; divl %2" : "=a"(value) : "a"(0x700), "m"(R32(0x10)) : "rdx");
    CHECK(value == 0x10);
    __asm__ volatile("cmpsb; sete %0" : "=r"(flag) : "S"(registers + 0x30), "D"("\1") : "memory");
    CHECK(flag == 1);
}

static void unseen(void)
{
    uint32_t value = 0;
    // The value makes no difference, yet the device is asked for it.
    __asm__ volatile("cmpl %%eax, %%eax; cmovnel %1, %0" : "+r"(value) : "m"(R32(COUNTERS)));
    CHECK(value == 0);
    CHECK(R32(COUNTERS) == 2);
}

static void floating(void)
{
    float value = 2.5f;
    double back;
    R32(0x40) = *(uint32_t *)&value;
    __asm__ volatile("flds %1; fstpl %0" : "=m"(back) : "m"(R32(0x40)));
    CHECK(back == 2.5);
    __asm__ volatile("fldl %1; fstpl %0" : "=m"(R64(0x48)) : "m"(back));
    CHECK(*(volatile double *)(registers + 0x48) == 2.5);
}

__attribute__((target("avx2"))) static void vectors(void)
{
    uint32_t back[8];
    R32(0x50) = 0x01020304;
    __m256i spread;
    __asm__ volatile("vpbroadcastd %1, %0" : "=x"(spread) : "m"(R32(0x50)));
    _mm256_storeu_si256((void *)back, spread);
    CHECK(back[0] == 0x01020304 && back[7] == 0x01020304);
    __asm__ volatile("vpaddd %1, %0, %0" : "+x"(spread) : "m"(*(volatile __m256i *)(registers + 0x50)));
    _mm256_storeu_si256((void *)back, spread);
    CHECK(back[0] == 0x02040608 && back[1] == 0x01020304);
    __m256i all = _mm256_setr_epi32(0, -1, -1, 0, 0, 0, 0, 0);
    __asm__ volatile("vpmaskmovd %2, %1, %0" : "=m"(*(volatile __m256i *)(registers + 0x80)) : "x"(all), "x"(spread));
    CHECK(R32(0x80) == 0 && R32(0x84) == 0x01020304 && R32(0x88) == 0x01020304 && R32(0x8C) == 0);
    __asm__ volatile("clflush %0" : "+m"(R32(0x50)));
}

int main(int argc, char **argv)
{
    (void)argc;
    map_registers(argv[1]);
    general();
    unseen();
    floating();
    vectors();
    puts("done");
    return 0;
}
