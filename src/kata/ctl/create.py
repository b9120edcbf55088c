"""From the options of `kata run` to a sandbox on disk, ready to be launched.

Pure where it can be: `RunOptions` are checked values, `container_options` combines them with the image's
configuration the way Docker does, and only `create` touches the system.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import secrets
import shlex
import signal
import time
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from kata.cgroups.path import placement
from kata.ctl import output, values
from kata.ctl.errors import UsageError
from kata.ctl.values import Volume
from kata.errors import KataError
from kata.hypervisor.machine import Accelerator, Disk, MachineType, PublishedPort
from kata.linux.nofile import require_files
from kata.sandbox import spec
from kata.sandbox.config import ContainerConfig, DiskRootfs, GuestAssets, SandboxConfig, SharedFs, Sharing
from kata.sandbox.reconcile import reconcile, remove_leftovers
from kata.sandbox.store import Record, Store

if TYPE_CHECKING:
    from kata.cgroups.path import Placement
    from kata.images.config import ImageConfig
    from kata.images.rootfs import Rootfs


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `kata run` was asked for, checked."""

    image: str
    command: tuple[str, ...]
    name: str
    auto_remove: bool
    interactive: bool
    tty: bool
    detach: bool
    env: tuple[str, ...]
    workdir: str
    user: str
    volumes: tuple[Volume, ...]
    shared_fs: SharedFs
    cpus: float
    memory_mib: int
    hostname: str
    readonly: bool
    entrypoint: str | None
    network: Literal["none", "user"]
    ports: tuple[PublishedPort, ...]
    accelerator: Accelerator
    machine_type: MachineType
    boot_timeout: float
    template: bool

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> RunOptions:
        """Check every option. Raises UsageError that names the one that is wrong."""
        ports = tuple(values.port(text) for text in args.publish)
        if ports and args.network == "none":
            raise UsageError("-p needs a network, and --network none has none", hint="leave one of them away")
        if args.workdir and not os.path.isabs(args.workdir):
            raise UsageError(f"-w {args.workdir!r} is not absolute", hint=f"-w /{args.workdir}")
        if not 1 <= args.boot_timeout <= 3600:
            raise UsageError("--boot-timeout is in seconds, 1 to 3600")
        return cls(
            image=args.image,
            command=tuple(args.command),
            name=values.name(args.name) if args.name else "",
            auto_remove=args.rm,
            interactive=args.interactive,
            tty=args.tty,
            detach=args.detach,
            env=values.environment(args.env, os.environ),
            workdir=args.workdir or "",
            user=args.user or "",
            volumes=tuple(values.volume(text) for text in args.volume),
            shared_fs=args.shared_fs,
            cpus=values.cpus(args.cpus),
            memory_mib=values.memory_mib(args.memory),
            hostname=values.hostname(args.hostname) if args.hostname else "",
            readonly=args.read_only,
            entrypoint=args.entrypoint,
            network=args.network,
            ports=ports,
            accelerator=args.accel,
            machine_type=args.machine,
            boot_timeout=args.boot_timeout,
            template=args.template,
        )


def create(options: RunOptions, cleanup: contextlib.ExitStack) -> tuple[Store, Record, int]:
    """Get image and guest assets ready and put the sandbox on disk; returns its store, record and lock.

    What is needed only until the sandbox runs is released by `cleanup`.
    """
    from kata.ctl.prepare import check_machine, check_ports, guest_assets
    from kata.images.store import ImageStore

    require_files()
    store = Store()
    reconcile(store)
    check_ports(options.ports)
    with output.steps("preparing") as progress:
        assets = guest_assets(progress)
        check_machine(options.machine_type, assets)
        images = ImageStore()
        image = images.resolve(options.image, progress)
        rootfs = images.rootfs(image, progress)
    cleanup.callback(rootfs.close)
    record = describe(options, rootfs, assets, image.name or options.image)
    lock = store.create(record)
    try:
        save_users(store, record, rootfs)
    except BaseException:
        os.close(lock)
        remove_unlaunched(store, record)
        raise
    return store, record, lock


def remove_unlaunched(store: Store, record: Record) -> None:
    """Take a sandbox away whose start failed before it had a process of its own: nothing of it is of any use."""
    with contextlib.suppress(KataError, OSError):
        if not store.was_held(record.sandbox.id):
            remove_leftovers(store, record.sandbox.id)


def describe(options: RunOptions, rootfs: Rootfs, assets: GuestAssets, image_name: str) -> Record:
    """The record of a new sandbox: pure but for its random id and the time."""
    sandbox_id = secrets.token_hex(16)
    container = container_options(options, rootfs, sandbox_id)
    disk = Disk(path=os.fspath(rootfs.path), serial=f"rootfs-{sandbox_id[:12]}")
    sandbox = SandboxConfig(
        id=sandbox_id,
        hostname=container.hostname,
        assets=assets,
        vcpus=math.ceil(options.cpus),
        memory_mib=options.memory_mib,
        machine_type=options.machine_type,
        accelerator=options.accelerator,
        network=options.network,
        ports=options.ports,
        disks=(disk,),
        share=bool(options.volumes),
        sharing=Sharing(way=options.shared_fs),
        boot_timeout=options.boot_timeout,
        template=options.template,
        cgroup=host_cgroup(sandbox_id),
    )
    return Record(
        name=options.name or f"kata-{sandbox_id[:6]}",
        image=image_name,
        command=list(container.process.args),
        sandbox=sandbox,
        container=ContainerConfig(
            id=sandbox_id,
            spec=cast("dict[str, object]", spec.container(container)),
            rootfs=DiskRootfs(disk.serial),
            resolv_conf=options.network != "none",
            stop_signal=stop_signal(rootfs.config.stop_signal),
        ),
        auto_remove=options.auto_remove,
        created_at=time.time(),
    )


def host_cgroup(sandbox_id: str) -> Placement:
    """Where all processes of the sandbox are on this host: nobody above names a place, as an engine does for pods.

    Where systemd manages the host it is a scope, like other machines' (machinectl(1) has them in machine.slice).
    """
    from kata.cgroups.systemd import Host

    path = f"machine.slice:kata:{sandbox_id}" if Host().runs() else f"/kata/{sandbox_id}"
    return placement(path, sandbox_id, together=True)


def container_options(options: RunOptions, rootfs: Rootfs, sandbox_id: str) -> spec.ContainerOptions:
    """Options over the image's configuration, as Docker combines them."""
    config = rootfs.config
    process = spec.ProcessOptions(
        args=command_line(options, config),
        env=spec.merge_env(tuple(config.env), options.env),
        cwd=options.workdir or config.working_dir or "/",
        user=resolve_user(options.user or config.user, rootfs.passwd, rootfs.group),
        terminal=options.tty,
    )
    covered = {volume.destination for volume in options.volumes}
    quota = options.cpus if options.cpus != math.ceil(options.cpus) else None
    return spec.ContainerOptions(
        id=sandbox_id,
        process=process,
        hostname=options.hostname or sandbox_id[:12],
        readonly=options.readonly,
        mounts=tuple((volume.source, volume.destination, volume.readonly) for volume in options.volumes),
        volumes=tuple(
            spec.ImageVolume(folder.path, folder.uid, folder.gid, folder.mode)
            for folder in rootfs.volumes
            if folder.path not in covered
        ),
        cpu_quota=quota,
        memory_bytes=options.memory_mib * 1024 * 1024,
    )


def command_line(options: RunOptions, config: ImageConfig) -> tuple[str, ...]:
    """Entrypoint and command; an entrypoint of the caller's own drops the image's command."""
    if options.entrypoint is not None:
        args = ((options.entrypoint,) if options.entrypoint else ()) + options.command
    else:
        args = tuple(config.entrypoint) + (options.command or tuple(config.cmd))
    if not args:
        raise UsageError(
            "no command: the image has none of its own", hint=f"kata run {shlex.quote(options.image)} COMMAND"
        )
    return args


def resolve_user(user: str, passwd: str, group: str) -> spec.User:
    """A user of the image as numbers. Raises ImageError for a name that its passwd does not have."""
    from kata.images.users import resolve_user as resolve

    found = resolve(user, passwd, group)
    return spec.User(found.uid, found.gid, tuple(found.additional_gids), found.home)


def stop_signal(text: str) -> int:
    """The number of an image's StopSignal: `SIGTERM`, `TERM`, `15`; SIGTERM when it has none or a wrong one."""
    if text.isascii() and text.isdigit() and 0 < int(text) < signal.NSIG:
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    found = getattr(signal, name, signal.SIGTERM)
    return int(found) if isinstance(found, signal.Signals) else int(signal.SIGTERM)


def save_users(store: Store, record: Record, rootfs: Rootfs) -> None:
    """Keep the image's users beside the record, for later `kata exec -u`."""
    directory = store.directory(record.sandbox.id)
    for name, text in (("passwd", rootfs.passwd), ("group", rootfs.group)):
        try:
            (directory / name).write_text(text)
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(directory / name)) from None
