// SPDX-License-Identifier: MIT
/*
 * A group of two devices, one of which a kernel driver has: what VFIO answers then, and what the
 * files by which people change drivers answer.
 *
 *     not_viable FIRST MATE       addresses in one group: vfio-pci has the first, a kernel driver
 *                                 has its mate. The driver's table does not name the first.
 */
#include "groups.h"

#define BUS "/sys/bus/pci/"

static const char *first, *mate;
static char native[64];	 /* the driver's name */
static char its_ids[32]; /* the mate's, as for new_id */

static const char *path(const char *device, const char *name)
{
	static char found[256];

	snprintf(found, sizeof(found), BUS "devices/%.40s/%.80s", device, name);
	return found;
}

static const char *driver(const char *name, const char *file)
{
	static char found[256];

	snprintf(found, sizeof(found), BUS "drivers/%.60s/%.60s", name, file);
	return found;
}

/* 0 if all of the text was taken, or -errno. */
static long put_text(const char *to, const char *text)
{
	int fd = open(to, O_WRONLY);
	long rc;

	NEED(fd >= 0);
	rc = told(write(fd, text, strlen(text)));
	close(fd);
	return rc == (long)strlen(text) ? 0 : rc;
}

static long get_text(const char *from, char *text, size_t size)
{
	int fd = open(from, O_RDONLY);
	long rc;

	NEED(fd >= 0);
	rc = told(read(fd, text, size - 1));
	text[rc < 0 ? 0 : rc] = 0;
	close(fd);
	return rc < 0 ? rc : 0;
}

static bool says(const char *device, const char *file, const char *text)
{
	char found[512];

	NEED(get_text(path(device, file), found, sizeof(found)) == 0);
	return strncmp(found, text, strlen(text)) == 0;
}

/* Who has it. */
static void say_driver(const char *device, const char *who)
{
	char target[256] = "/nobody";

	ssize_t length = readlink(path(device, "driver"), target, sizeof(target) - 1);

	NEED(length > 0 || errno == ENOENT);
	if (length > 0)
		target[length] = 0;
	printf("%s has: %s\n", who,
	       strstr(target, "vfio-pci") ? "vfio-pci" :
	       strcmp(strrchr(target, '/') + 1, native) ? "nobody" : "its own driver");
}

static void status(const char *when)
{
	int group = open_to(group_of(first));

	SAY(group_status(group), "status, %s", when);
	close(group);
}

static void kept(void)
{
	int group = open_to(group_of(first)), container = open_container(), iommu = open_its_iommu(), device;
	char text[128];
	uint32_t id;

	heading("the mate has its own driver");
	snprintf(text, sizeof(text), "DRIVER=%s\n", native);
	SAY(says(mate, "uevent", text), "uevent names it");
	SAY(says(mate, "enable", "1\n"), "it is enabled once");
	SAY(access(path(mate, "vfio-dev"), F_OK) ? -errno : 0, "vfio-dev");
	SAY(access(driver(native, mate), F_OK) ? -errno : 0, "the driver names it");
	SAY(put_text(path(mate, "enable"), "1"), "enable it");
	SAY(put_text(path(mate, "enable"), "0"), "disable it");

	SAY(group_status(group), "status");
	SAY(set_container(group, container), "SET_CONTAINER");
	SAY(group_status(group), "status");
	SAY(device_fd(group, first), "GET_DEVICE_FD");
	SAY(device_fd(group, mate), "GET_DEVICE_FD of the mate");
	SAY(device_fd(group, "nothing"), "GET_DEVICE_FD of nothing");
	device = open_to(file_of(first));
	SAY(bind_device(device, iommu, &id), "BIND_IOMMUFD while the group is open");
	SAY(unset_container(group), "UNSET_CONTAINER");
	SAY(group_status(group), "status");
	close(group);
	SAY(bind_device(device, iommu, &id), "BIND_IOMMUFD");
	SAY(id == NO_ID, "it gave no ID");
	SAY(bind_device(device, iommu, &id), "again");
	SAY(bind_device(device, 999, &id), "to no such descriptor");
	SAY(device_identity(device), "it is");
	close(device);
	close(container);
	close(iommu);
	SAY(put_text(path(first, "iommu_group/type"), "identity"), "another type of group");
	SAY(put_text(path(first, "iommu_group/type"), "nothing"), "no type of group");
}

static void files_of_drivers(void)
{
	char text[64];

	heading("files of the drivers");
	SAY(put_text(driver(native, "bind"), mate), "bind of the mate");
	SAY(put_text(driver(native, "bind"), first), "bind of the first");
	SAY(put_text(driver(native, "unbind"), first), "unbind of the first");
	SAY(put_text(driver(native, "bind"), "0000:ff:1f.7"), "bind of no device");
	SAY(put_text(driver(native, "unbind"), "0000:ff:1f.7"), "unbind of no device");
	SAY(put_text(driver("vfio-pci", "bind"), mate), "vfio-pci, bind of the mate");
	SAY(put_text(driver("vfio-pci", "unbind"), mate), "vfio-pci, unbind of the mate");
	SAY(put_text(BUS "drivers_probe", mate), "drivers_probe of the mate");
	say_driver(mate, "the mate");
	SAY(put_text(driver(native, "new_id"), its_ids), "new_id of the mate's IDs");
	SAY(put_text(driver(native, "remove_id"), its_ids), "remove_id of the mate's IDs");
	snprintf(text, sizeof(text), "%s 1 2", its_ids);
	SAY(put_text(driver(native, "new_id"), text), "new_id of the mate's IDs, and a subsystem");
	SAY(put_text(driver(native, "new_id"), "1"), "new_id of one number");
	SAY(put_text(driver(native, "new_id"), "1 2"), "new_id of another device");
	SAY(put_text(driver(native, "new_id"), "1 2"), "again");
	SAY(put_text(driver(native, "new_id"), "1 2 3 4"), "again, and a subsystem");
	SAY(put_text(driver(native, "new_id"), "1 2 ffffffff ffffffff 0 0 0"), "again, with the driver's number");
	SAY(put_text(driver(native, "new_id"), "1 3 ffffffff ffffffff 0 0 1"), "another, with a number that it does not know");
	SAY(put_text(driver(native, "remove_id"), "1 2"), "remove_id");
	SAY(put_text(driver(native, "remove_id"), "1 2"), "again");
	SAY(put_text(driver(native, "remove_id"), "1 2"), "and again");
	SAY(put_text(driver(native, "uevent"), "add"), "uevent");
	SAY(put_text(driver(native, "uevent"), "nothing"), "uevent of no kind");
	SAY(put_text(driver("vfio-pci", "new_id"), its_ids), "vfio-pci, new_id of the mate's IDs");
	say_driver(mate, "the mate");
	SAY(put_text(driver("vfio-pci", "bind"), mate), "vfio-pci, bind of the mate");
	SAY(put_text(BUS "drivers_probe", mate), "drivers_probe of the mate");
	say_driver(mate, "the mate");
	SAY(put_text(driver("vfio-pci", "new_id"), its_ids), "vfio-pci, new_id of the mate's IDs");
	SAY(put_text(driver("vfio-pci", "remove_id"), its_ids), "vfio-pci, remove_id of the mate's IDs");
	say_driver(mate, "the mate");
}

static void unbound(void)
{
	int iommu = open_its_iommu(), device, again;
	uint32_t id;

	heading("nobody has the mate");
	SAY(put_text(driver(native, "unbind"), mate), "unbind");
	SAY(put_text(driver(native, "unbind"), mate), "again");
	say_driver(mate, "the mate");
	SAY(says(mate, "enable", "0\n"), "it is not enabled");
	SAY(says(mate, "uevent", "DRIVER="), "uevent names a driver");
	status("without a driver");
	device = open_to(file_of(first));
	SAY(bind_device(device, iommu, &id), "BIND_IOMMUFD");
	SAY(put_text(driver(native, "bind"), mate), "bind of the mate, while a context has the group");
	SAY(put_text(driver(native, "new_id"), its_ids), "new_id of the mate's IDs");
	SAY(put_text(BUS "drivers_probe", mate), "drivers_probe");
	say_driver(mate, "the mate");
	SAY(put_text(path(mate, "driver_override"), "nothing"), "an override to no driver");
	SAY(put_text(BUS "drivers_probe", mate), "drivers_probe");
	SAY(put_text(driver(native, "bind"), mate), "bind");
	SAY(put_text(path(mate, "driver_override"), native), "an override to its own");
	SAY(put_text(BUS "drivers_probe", mate), "drivers_probe");
	SAY(put_text(driver(native, "bind"), mate), "bind");
	SAY(put_text(path(mate, "driver_override"), "vfio-pci"), "an override to vfio-pci");
	SAY(put_text(driver(native, "bind"), mate), "bind");
	SAY(put_text(BUS "drivers_probe", mate), "drivers_probe");
	say_driver(mate, "the mate");
	again = open_to(file_of(mate));
	SAY(bind_device(again, iommu, &id), "BIND_IOMMUFD of the mate");
	close(again);
	SAY(put_text(path(mate, "driver/unbind"), mate), "unbind from vfio-pci");
	SAY(put_text(path(mate, "driver_override"), "\n"), "no override");
	SAY(put_text(driver("vfio-pci", "new_id"), its_ids), "vfio-pci, new_id of the mate's IDs");
	say_driver(mate, "the mate");
	SAY(put_text(driver(native, "bind"), mate), "bind");
	SAY(put_text(path(mate, "remove"), "1"), "remove");
	SAY(put_text(BUS "rescan", "1"), "rescan");
	say_driver(mate, "the mate");
	SAY(put_text(driver("vfio-pci", "bind"), mate), "vfio-pci, bind");
	say_driver(mate, "the mate");
	SAY(put_text(path(mate, "remove"), "1"), "remove");
	SAY(put_text(driver("vfio-pci", "remove_id"), its_ids), "vfio-pci, remove_id of the mate's IDs");
	close(device);
	SAY(put_text(BUS "rescan", "1"), "rescan when the first is closed");
	say_driver(mate, "the mate");
	status("then");
	close(iommu);
}

static void overridden(void)
{
	int iommu = open_its_iommu(), devices[2];
	uint32_t id;

	heading("an override");
	SAY(put_text(path(mate, "driver_override"), "vfio-pci"), "to vfio-pci");
	say_driver(mate, "the mate");
	SAY(put_text(driver("vfio-pci", "bind"), mate), "vfio-pci, bind");
	SAY(put_text(driver(native, "bind"), mate), "bind");
	SAY(put_text(path(mate, "driver/unbind"), mate), "unbind");
	SAY(put_text(driver(native, "bind"), mate), "bind");
	SAY(put_text(driver("vfio-pci", "bind"), mate), "vfio-pci, bind");
	say_driver(mate, "the mate");
	SAY(says(mate, "enable", "0\n"), "it is not enabled");
	SAY(put_text(path(mate, "driver_override"), "\n"), "to none");
	SAY(put_text(driver(native, "bind"), mate), "bind");
	SAY(put_text(driver("vfio-pci", "bind"), mate), "vfio-pci, bind");
	status("vfio-pci has both");
	devices[0] = open_to(file_of(first));
	devices[1] = open_to(file_of(mate));
	SAY(bind_device(devices[0], iommu, &id), "BIND_IOMMUFD");
	SAY(bind_device(devices[1], iommu, &id), "BIND_IOMMUFD of the mate");
	close(devices[0]);
	close(devices[1]);
	close(iommu);
	SAY(put_text(path(first, "driver_override"), native), "of the first to the mate's driver");
	SAY(put_text(BUS "drivers_probe", first), "drivers_probe");
	say_driver(first, "the first");
	SAY(put_text(path(first, "driver_override"), "\n"), "to none");
	SAY(put_text(driver("vfio-pci", "unbind"), mate), "vfio-pci, unbind of the mate");
	SAY(put_text(BUS "drivers_probe", mate), "drivers_probe of the mate");
	say_driver(mate, "the mate");
	status("at the end");
}

int main(int argc, char **argv)
{
	char vendor[16], device[16], target[256];
	ssize_t length;

	checks_begin();
	setvbuf(stdout, NULL, _IOLBF, 0);
	NEED(argc > 2);
	first = argv[1];
	mate = argv[2];
	length = readlink(path(mate, "driver"), target, sizeof(target) - 1);
	NEED(length > 0);
	target[length] = 0;
	snprintf(native, sizeof(native), "%.60s", strrchr(target, '/') + 1);
	NEED(get_text(path(mate, "vendor"), vendor, sizeof(vendor)) == 0);
	NEED(get_text(path(mate, "device"), device, sizeof(device)) == 0);
	snprintf(its_ids, sizeof(its_ids), "%.4s %.4s", vendor + 2, device + 2);
	kept();
	files_of_drivers();
	unbound();
	overridden();
	return 0;
}
