#!/bin/sh
# The first program of a guest whose kernel keeps its drivers in modules: loads them, mounts the root file system
# read-only and hands over. Kernel parameters of its own: root= (a device node), rootfstype=. All others are left
# to the kernel and the guest. Whatever fails is said on the console and ends the VM: nothing waits for ever.

fail() {
    echo "kata-initrd: $*" >/dev/console
    reboot -f
}

# As modprobe does, a module gets its parameters from the kernel's: <module>.<name>=<value>.
load() {
    options=
    for parameter in $parameters; do
        case $parameter in
            "$2".*=*) options="$options ${parameter#"$2".}" ;;
        esac
    done
    # shellcheck disable=SC2086 # each option is a word
    [ -d "/sys/module/$2" ] || insmod "$1/$2.ko" $options || echo "kata-initrd: the module $2 does not load" >/dev/console
}

mount -t devtmpfs dev /dev || fail "devtmpfs cannot be mounted"
exec </dev/console >/dev/console 2>&1
mount -t proc proc /proc || fail "/proc cannot be mounted"
mount -t sysfs sys /sys || fail "/sys cannot be mounted"

root=/dev/vda
rootfstype=erofs
read -r parameters </proc/cmdline
for parameter in $parameters; do
    case $parameter in
        root=*) root=${parameter#root=} ;;
        rootfstype=*) rootfstype=${parameter#rootfstype=} ;;
    esac
done

# A machine without PCI announces its virtio devices through ACPI or the command line.
[ -d /sys/bus/pci/devices/0000:00:00.0 ] || load /modules virtio_mmio
while read -r module; do
    load /boot-modules "$module"
done </boot-modules/order

# Drivers of the virtio devices that are there: "<device type> <modules>" a line.
for device in /sys/bus/virtio/devices/*/device; do
    [ -e "$device" ] || continue
    read -r type <"$device"
    while read -r known modules; do
        [ "$known" = "$type" ] || continue
        for module in $modules; do load /modules "$module"; done
    done </modules/virtio.map
done

# The root's file system, where it is not the usual one: "<name>: <modules>" a line.
while read -r known modules; do
    [ "$known" = "$rootfstype:" ] || continue
    for module in $modules; do load /modules "$module"; done
done </modules/modules.needs

tries=50
while [ ! -b "$root" ]; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || fail "the root device $root did not appear; present: $(echo /sys/block/*)"
    sleep 0.1
done
mount -t "$rootfstype" -o ro "$root" /root || fail "$root cannot be mounted as $rootfstype"
mount -t tmpfs -o mode=755,nosuid,nodev run /root/run || fail "the image has no /run"
mv /modules /root/run/kata-modules
mount --move /dev /root/dev || fail "the image has no /dev"
mount --move /proc /root/proc || fail "the image has no /proc"
mount --move /sys /root/sys || fail "the image has no /sys"
# Should this fail, the first process ends, and with it, by panic=1, the VM.
exec switch_root /root /sbin/init "$@"
