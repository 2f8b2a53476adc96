// How long a store and a load take: least, and half of all, in microseconds.
#include "registers.h"

static int order(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

static void show(const char *name, double *times, int count)
{
    qsort(times, count, sizeof *times, order);
    printf("%s %.1f %.1f\n", name, times[0], times[count / 2]);
}

int main(int argc, char **argv)
{
    int count = argc > 2 ? atoi(argv[2]) : 2000;
    double *times = malloc(count * sizeof *times);
    map_registers(argv[1]);
    for (int at = 0; at < count; at++) {
        double start = microseconds();
        R32(0x10) = at;
        times[at] = microseconds() - start;
    }
    show("store", times, count);
    uint32_t sum = 0;
    for (int at = 0; at < count; at++) {
        double start = microseconds();
        sum += R32(0x10);
        times[at] = microseconds() - start;
    }
    show("load", times, count);
    return sum == (uint32_t)count * (count - 1) ? 0 : 1;
}
