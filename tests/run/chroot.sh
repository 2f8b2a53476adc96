# chroot.sh DIRECTORY CHECKOUT COMMAND...: COMMAND in a chroot into DIRECTORY, which is no mount; the machine's files are bound below it,
# and so is the checkout, wherever it is.
set -e
root=$1
checkout=$2
shift 2
for name in usr etc root tmp proc sys dev bin sbin lib lib64; do
	if [ -L "/$name" ]; then
		ln -s "$(readlink "/$name")" "$root/$name"
	elif [ -d "/$name" ]; then
		mkdir "$root/$name"
		mount --rbind "/$name" "$root/$name"
	fi
done
if [ ! -d "$root$checkout" ]; then
	mkdir -p "$root$checkout"
	mount --rbind "$checkout" "$root$checkout"
fi
exec chroot "$root" "$@"
