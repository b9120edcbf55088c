"""`kata image`: look at and change the local store of container images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kata.ctl.actions import add_action

if TYPE_CHECKING:
    from kata.images.store import Image, ImageStore

HELP = "list, import, export and remove container images"

_FORMS = """\
SOURCE is one of
  NAME[:TAG]              from a registry: alpine:3.20, quay.io/org/app (also as docker://NAME)
  FILE                    an OCI archive, or what `docker save` or `podman save` wrote; may be compressed
  DIR                     an OCI layout, or a directory with a root filesystem (mmdebstrap's, for example)
  oci:DIR[:REF]           an OCI layout             oci-archive:FILE[:REF]     an OCI archive
  docker-archive:FILE[:REF]                         dir:DIR                    skopeo's own format
  rootfs:DIR              a root filesystem, whatever is in it
  apt://busybox-static    a small image, busybox:latest, made of Debian's package of that name

A word that starts with / or ./ or ../ is always a path; another one is a path when there is one of that name.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `kata image`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, title="actions")
    ls = add_action(actions, "ls", "list the images", _list)
    ls.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    load = add_action(actions, "import", "copy an image into the store", _import)
    load.epilog = _FORMS
    load.add_argument("source", metavar="SOURCE", help="where the image is; see below")
    load.add_argument("name", metavar="NAME", nargs="?", help="what to call it; default: as it is called there")
    load.add_argument("--json", action="store_true", help="print the image as JSON instead of its name")
    save = add_action(actions, "export", "write an image to an OCI archive that podman, skopeo and ctr read", _export)
    save.add_argument("name", metavar="NAME", help="an image of the store")
    save.add_argument("file", metavar="FILE", help="the archive to write; replaced if it exists")
    remove = add_action(actions, "rm", "remove images", _remove)
    remove.add_argument("names", metavar="NAME", nargs="+", help="an image's name or digest")
    inspect = add_action(actions, "inspect", "print all about an image as JSON", _inspect)
    inspect.add_argument("name", metavar="NAME", help="an image's name or digest")
    inspect.add_argument("--json", action="store_true", help="on one line")


def execute(args: argparse.Namespace) -> int:
    """Do what the action says; each prints only what its caller wants to go on with."""
    from kata.images.store import ImageStore

    code: int = args.act(ImageStore(), args)
    return code


def _list(store: ImageStore, args: argparse.Namespace) -> int:
    from kata.ctl import output

    images = store.list()
    if args.json:
        output.json_line([_as_json(image) for image in images])
        return 0
    output.table(
        ("IMAGE", "DIGEST", "ARCHITECTURE", "SIZE"),
        [(image.name or "<none>", image.digest[7:19], image.architecture, output.size(image.size)) for image in images],
    )
    return 0


def _import(store: ImageStore, args: argparse.Namespace) -> int:
    from kata.ctl import output

    with output.steps(f"importing {args.source}") as progress:
        image = store.import_(args.source, args.name, progress)
    if args.json:
        output.json_line(_as_json(image))
    else:
        print(image.name)
    return 0


def _export(store: ImageStore, args: argparse.Namespace) -> int:
    from pathlib import Path

    store.export(args.name, Path(args.file))
    return 0


def _remove(store: ImageStore, args: argparse.Namespace) -> int:
    for name in args.names:
        store.remove(name)
        print(name)
    return 0


def _inspect(store: ImageStore, args: argparse.Namespace) -> int:
    import json

    import msgspec

    from kata.ctl import output

    image = store.get(args.name)
    document = {**_as_json(image), "config": msgspec.to_builtins(store.inspect(image))}
    if args.json:
        output.json_line(document)
    else:
        print(json.dumps(document, indent=2, sort_keys=True))
    return 0


def _as_json(image: Image) -> dict[str, object]:
    return {
        "name": image.name,
        "digest": image.digest,
        "size": image.size,
        "created": image.created,
        "architecture": image.architecture,
    }
