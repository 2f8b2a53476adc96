#!/bin/busybox sh
# The first program of a guest whose only disk is virtio-blk: Linux's own driver writes and reads it. Each line that it says of
# itself begins with a plus sign.
. /begin
exec >/dev/ttyS0 2>&1
disk=/sys/block/vda
md5() { $b dd if=/dev/vda iflag=direct bs=64k skip=$1 count=$2 2>/dev/null | $b md5sum | $b cut -d ' ' -f 1; }
echo "+ features $($b cat $disk/device/features)"
echo "+ serial $($b cat $disk/serial)"
echo "+ sectors $($b cat $disk/size) of $($b cat $disk/queue/logical_block_size), $($b ls $disk/mq | $b wc -l) queues"
echo "+ found $(md5 0 64)"
$b dd if=/dev/urandom of=/data bs=64k count=128 2>/dev/null
echo "+ data $($b md5sum </data | $b cut -d ' ' -f 1)"
for part in 0 1 2 3; do # beside one another, on all queues
	$b dd if=/data of=/dev/vda oflag=direct bs=64k count=32 skip=$((32 * part)) seek=$((64 + 32 * part)) 2>/dev/null &
done
wait
echo "+ read $(md5 64 128)"
echo "write through" >$disk/cache_type
$b dd if=/data of=/dev/vda bs=4k count=64 seek=4096 conv=fsync 2>/dev/null
echo "write back" >$disk/cache_type
$b dd if=/data of=/dev/vda bs=512 count=100 seek=65536 conv=fsync 2>/dev/null
$b blkdiscard -o 1048576 -l 1048576 /dev/vda && echo "+ discarded $(md5 0 64)"
$b sync
echo "+ interrupts $($b grep -c virtio0-req /proc/interrupts)"
$b dmesg | $b grep -i -E 'i/o error|virtio.*(error|fail|not)' | $b sed 's/^/+ wrong /'
echo "+ done"
$b poweroff -f
