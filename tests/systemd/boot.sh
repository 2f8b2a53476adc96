#!/bin/sh
# boot.sh WORK INSTALLED SHARED: in new mount, pid, network, cgroup, UTS and IPC namespaces, become a systemd that has this machine's files
# below those of INSTALLED, a /dev of its own, and nothing running but the journal. WORK is an empty directory. SHARED is a directory seen at
# /run/shared, where it says READY=1 to the socket `notify`. Nothing of this reaches the machine: what has no namespace (/proc/sys, /sys)
# is read-only, and of the machine's own units none is started.
set -eu
work=$1 installed=$2 shared=$3
root=$work/root

mount --make-rprivate /
mount -t tmpfs iommud-test "$work"
mkdir "$work/work" "$root"
cp -a "$installed" "$work/upper" # no second lower layer: it may lie within the first
mkdir -p "$work/upper/etc"
: > "$work/upper/etc/fstab"
mount -t overlay iommud-test -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
mount -t proc proc "$root/proc"
mount -o bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs sysfs "$root/sys"
mkdir -p "$root/sys/fs/cgroup"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -o remount,bind,ro "$root/sys"
mount -t tmpfs run "$root/run" -o mode=0755
mount -t tmpfs dev "$root/dev" -o mode=0755
mkdir "$root/dev/pts" "$root/dev/shm" "$root/run/old" "$root/run/shared"
mount --bind "$shared" "$root/run/shared"
mount -t tmpfs shm "$root/dev/shm" -o mode=1777
mount -t devpts devpts "$root/dev/pts" -o newinstance,ptmxmode=0666
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
umask 0
mknod "$root/dev/null" c 1 3
mknod "$root/dev/zero" c 1 5
mknod "$root/dev/full" c 1 7
mknod "$root/dev/random" c 1 8
mknod "$root/dev/urandom" c 1 9
mknod "$root/dev/fuse" c 10 229
umask 022

units=$root/run/systemd/system
mkdir -p "$units"
for wanted in "$root"/etc/systemd/system/*.wants/* "$root"/lib/systemd/system/*.wants/*; do
    case ${wanted##*/} in
        systemd-journald*) ;;
        *) ln -sf /dev/null "$units/${wanted##*/}" ;;
    esac
done
cat > "$units/iommud-test.target" << 'END'
[Unit]
Requires=systemd-journald.service
After=systemd-journald.service
END

cd "$root"
pivot_root . run/old
umount -l /run/old
exec env -i container=iommud-test NOTIFY_SOCKET=/run/shared/notify PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=iommud-test.target --log-target=journal --show-status=no
