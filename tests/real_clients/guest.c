/*
 * A guest of a few hundred lines that drives QEMU's educational device (docs/specs/edu.rst) as an
 * operating system would: it finds it on the PCI bus, uses its registers, has it copy memory out
 * and back by DMA, and takes interrupts from it: a legacy one, polled at the device, and MSIs,
 * through the processor's interrupt table.
 *
 * Booted by the multiboot protocol ("-kernel"): 32-bit protected mode, flat segments, no paging.
 * It says what it does on the debug port 0xe9, one line for each step, and ends by port 0xf4:
 * QEMU's isa-debug-exit then exits with 2 * the value + 1.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define NEEDED 0x00000002 /* multiboot: memory information */

__attribute__((section(".multiboot"), used)) static const u32 header[3] = {
	0x1badb002, NEEDED, -(0x1badb002u + NEEDED),
};

enum { SATISFIED = 16, FAILED = 1, NO_DEVICE = 2 };
enum { VENDOR = 0x1234, DEVICE = 0x11e8 };
enum { VECTOR = 0x40, EDU_DMA = 0x40000, LENGTH = 4096 };
enum { ID = 0x00, LIVE = 0x04, FACTORIAL = 0x08, STATUS = 0x20, IRQ_STATUS = 0x24, IRQ_RAISE = 0x60, IRQ_ACK = 0x64 };
enum { DMA_SOURCE = 0x80, DMA_DESTINATION = 0x88, DMA_COUNT = 0x90, DMA_COMMAND = 0x98 };
enum { DMA_START = 1, DMA_TO_MEMORY = 2, DMA_INTERRUPT = 4 };

static volatile u8 *edu;
static volatile u32 interrupts;
static u8 out[LENGTH] __attribute__((aligned(4096)));
static u8 back[LENGTH] __attribute__((aligned(4096)));
static u64 table[256] __attribute__((aligned(8)));

static void outb(u16 port, u8 value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void outl(u16 port, u32 value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static u32 inl(u16 port)
{
	u32 value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void say(const char *text)
{
	while (*text)
		outb(0xe9, *text++);
}

static void say_number(u32 value)
{
	char digits[11] = "0x";

	for (int i = 0; i < 8; i++)
		digits[2 + i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
	digits[10] = 0;
	say(digits);
}

static void line(const char *text, u32 value)
{
	say(text);
	say(" ");
	say_number(value);
	say("\n");
}

static void __attribute__((noreturn)) end(u32 status)
{
	outl(0xf4, status);
	for (;;)
		__asm__ volatile("cli; hlt");
}

static void check(const char *text, u32 found, u32 expected)
{
	line(text, found);
	if (found != expected) {
		line("guest: expected", expected);
		end(FAILED);
	}
}

static u32 config(u32 slot, u32 offset)
{
	outl(0xcf8, 0x80000000u | slot << 11 | offset);
	return inl(0xcfc);
}

static void set_config(u32 slot, u32 offset, u32 value)
{
	outl(0xcf8, 0x80000000u | slot << 11 | offset);
	outl(0xcfc, value);
}

static u32 load(u32 offset)
{
	return *(volatile u32 *)(edu + offset);
}

static void store(u32 offset, u32 value)
{
	*(volatile u32 *)(edu + offset) = value;
}

static void wait_while(u32 offset, u32 bits)
{
	while (load(offset) & bits)
		__asm__ volatile("pause");
}

static void copy(u32 source, u32 destination, u32 command)
{
	store(DMA_SOURCE, source);
	store(DMA_DESTINATION, destination);
	store(DMA_COUNT, LENGTH);
	store(DMA_COMMAND, DMA_START | command);
	wait_while(DMA_COMMAND, DMA_START);
}

void interrupted(void)
{
	store(IRQ_ACK, load(IRQ_STATUS));
	interrupts++;
	*(volatile u32 *)0xfee000b0 = 0; /* end of interrupt */
}

__asm__(".globl entry\n"
	"entry: pusha\n"
	"cld\n"
	"call interrupted\n"
	"popa\n"
	"iret\n");
extern void entry(void);

static void take_interrupts(void)
{
	struct {
		u16 limit;
		u32 base;
	} __attribute__((packed)) idt = { sizeof(table) - 1, (u32)table };
	u32 handler = (u32)entry;
	u16 code;

	__asm__ volatile("mov %%cs, %0" : "=r"(code));
	table[VECTOR] = (u64)(handler & 0xffff0000) << 32 | 0x8e00ull << 32 | (u32)code << 16 | (handler & 0xffff);
	outb(0x21, 0xff); /* nothing from the old interrupt controllers */
	outb(0xa1, 0xff);
	__asm__ volatile("lidt %0" : : "m"(idt));
	*(volatile u32 *)0xfee000f0 = 0x1ff; /* the local APIC is on */
	*(volatile u32 *)0xfee00080 = 0;
	__asm__ volatile("sti");
}

static void wait_for_interrupt(u32 number)
{
	/* an MSI comes by itself; the guest must not look at the device meanwhile */
	while (interrupts != number)
		__asm__ volatile("pause");
}

static u32 find(void)
{
	for (u32 slot = 0; slot < 32; slot++)
		if (config(slot, 0) == (DEVICE << 16 | VENDOR))
			return slot;
	say("guest: there is no device\n");
	end(NO_DEVICE);
}

static u32 msi_capability(u32 slot)
{
	u32 at = config(slot, 0x34) & 0xfc;

	while (at && (config(slot, at) & 0xff) != 5)
		at = config(slot, at) >> 8 & 0xfc;
	return at;
}

void start(void)
{
	u32 slot = find(), msi = msi_capability(slot), wide;

	line("slot", slot);
	edu = (volatile u8 *)(config(slot, 0x10) & ~15u);
	line("bar", (u32)edu);
	set_config(slot, 4, 0x0006 | 0x0400); /* memory, bus master, no INTx to anybody yet */

	check("id", load(ID) & 0xffff, 0x00ed);
	store(LIVE, 0x12345678);
	check("live", load(LIVE), ~0x12345678u);
	store(FACTORIAL, 10);
	wait_while(STATUS, 1);
	check("factorial", load(FACTORIAL), 3628800);

	for (u32 i = 0; i < LENGTH; i++)
		out[i] = (u8)(i * 7 + 3);
	copy((u32)out, EDU_DMA, 0);
	copy(EDU_DMA, (u32)back, DMA_TO_MEMORY);
	u32 same = 0;
	for (u32 i = 0; i < LENGTH; i++)
		same += back[i] == out[i];
	check("dma", same, LENGTH);

	store(IRQ_RAISE, 0x10);
	check("raised", load(IRQ_STATUS), 0x10);
	check("intx pending", config(slot, 4) >> 16 & 8, 8);
	store(IRQ_ACK, 0x10);
	check("intx done", config(slot, 4) >> 16 & 8, 0);

	check("msi capability", msi != 0, 1);
	take_interrupts();
	wide = config(slot, msi) >> 16 & 0x80;
	set_config(slot, msi + 4, 0xfee00000);
	if (wide)
		set_config(slot, msi + 8, 0);
	set_config(slot, msi + (wide ? 12 : 8), VECTOR);
	set_config(slot, msi, (config(slot, msi) & ~0x700000u) | 1 << 16);
	store(IRQ_RAISE, 1);
	wait_for_interrupt(1);
	line("msi", interrupts);
	store(DMA_SOURCE, (u32)out);
	store(DMA_DESTINATION, EDU_DMA);
	store(DMA_COUNT, LENGTH);
	store(DMA_COMMAND, DMA_START | DMA_INTERRUPT);
	wait_for_interrupt(2);
	line("msi of dma", interrupts);
	for (u32 i = 3; i < 103; i++) {
		store(IRQ_RAISE, i);
		wait_for_interrupt(i);
	}
	check("msis", interrupts, 102);
	say("guest: all done\n");
	end(SATISFIED);
}

__asm__(".globl _start\n"
	"_start: mov $stack_end, %esp\n"
	"call start\n");
u8 stack[16384] __attribute__((aligned(16), used));
__asm__(".globl stack_end\n"
	".set stack_end, stack + 16384\n");
