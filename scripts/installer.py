"""`make install` and `make uninstall`: files into place, and exactly those away again.

The Makefile names the directories (GNU's variables) and builds what is installed: `build/app` is a
directory with the packages iommud, cuse_glue and what they need, which a launcher puts on Python's
path. So no other Python program sees them, and none of its packages disturb us. What is installed
is written down in `pkglibdir/installed.json`, without DESTDIR, so that a package can be made of it;
uninstall goes by that list alone. A second install begins with taking the first away.

A configuration file is the administrator's as soon as it is changed: then neither of the two
touches it.
"""

import argparse
import compileall
import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
APP = SOURCE / "build" / "app"
LIST = "installed.json"
DIRECTORIES = (
    "bindir", "pkglibdir", "mandir", "bashcompletiondir", "zshcompletiondir", "fishcompletiondir",
    "unitdir", "sysusersdir", "udevrulesdir", "modulesloaddir", "defaultdir",
)  # fmt: skip
LAUNCHER = """\
#!@python@ -IS
import sys

sys.path.insert(0, "@pkglibdir@")

from iommud.commands.cli import main

main()
"""


class Refused(Exception):
    """A sentence for the person."""


class Tree:
    """What is under DESTDIR. Paths are absolute, as they will be found without it."""

    def __init__(self, destdir: str, list_path: Path) -> None:
        self.destdir = destdir
        self.list_path = list_path
        try:
            known = json.loads(self.real(list_path).read_text())
        except FileNotFoundError:
            known = {"files": [], "directories": [], "configuration": {}}
        self.files: list[str] = known["files"]
        # that were made for them, each after the one it is in
        self.directories: list[str] = known["directories"]
        self.configuration: dict[str, str] = known["configuration"]  # path: sha256

    def real(self, path: Path) -> Path:
        return Path(f"{self.destdir}{path}")

    def put(self, path: Path, content: bytes, mode: int = 0o644) -> None:
        """A file that must not be there yet."""
        real = self.real(path)
        self._make_directory(path.parent)
        try:
            with open(real, "xb") as file:
                file.write(content)
        except FileExistsError:
            raise Refused(f"{real} is there, and was not installed by this: remove it first") from None
        self.files.append(str(path))
        real.chmod(mode)

    def configure(self, path: Path, content: bytes) -> None:
        """A file that is left alone if it is there: it was not ours, or was changed."""
        if self.real(path).exists():
            print(f"kept: {self.real(path)}")
        else:
            self.put(path, content)
            self.files.remove(str(path))
        self.configuration[str(path)] = hashlib.sha256(content).hexdigest()

    def _make_directory(self, path: Path) -> None:
        if path == path.parent:
            self.real(path).mkdir(parents=True, exist_ok=True)
        elif not self.real(path).is_dir():
            self._make_directory(path.parent)
            self.real(path).mkdir(mode=0o755)
            self.real(path).chmod(0o755)  # whatever the umask
            self.directories.append(str(path))

    def save(self) -> None:
        content = {"files": self.files, "directories": self.directories, "configuration": self.configuration}
        self._make_directory(self.list_path.parent)
        self.real(self.list_path).write_text(json.dumps(content, indent=1) + "\n")

    def clear(self) -> None:
        """Take all of it away, with what Python has compiled meanwhile, and the directories that
        were made, if they are empty.
        """
        for name, digest in self.configuration.items():
            real = self.real(Path(name))
            if real.exists() and hashlib.sha256(real.read_bytes()).hexdigest() == digest:
                real.unlink()
            elif real.exists():
                print(f"kept, because it is not as it was installed: {real}")
        for name in [*self.files, str(self.list_path)]:
            self.real(Path(name)).unlink(missing_ok=True)
            if name.endswith(".py"):
                shutil.rmtree(self.real(Path(name).parent / "__pycache__"), ignore_errors=True)
        for name in reversed(self.directories):
            try:
                self.real(Path(name)).rmdir()
            except OSError:
                pass  # somebody else's file is in it, or it is gone
        self.files, self.directories, self.configuration = [], [], {}


def install(tree: Tree, places: dict[str, Path]) -> None:
    """All files. Refused: one is in the way; what was put until then is taken away again."""
    words = {f"@{name}@": str(path) for name, path in places.items()} | {"@python@": os.path.realpath(sys.executable)}

    def filled(text: str, **more: str) -> bytes:
        for word, value in (words | {f"@{name}@": value for name, value in more.items()}).items():
            text = text.replace(word, value)
        left = re.search(r"@\w+@", text)
        if left:
            raise Refused(f"nothing is known to put in place of {left[0]}")
        return text.encode()

    for path in sorted(file for file in APP.rglob("*") if file.is_file() and file.parent.name != "__pycache__"):
        tree.put(places["pkglibdir"] / path.relative_to(APP), path.read_bytes(), path.stat().st_mode & 0o755 | 0o644)
    compileall.compile_dir(tree.real(places["pkglibdir"]), quiet=1, stripdir=tree.destdir or None)
    tree.put(places["bindir"] / "iommud", filled(LAUNCHER), 0o755)

    units = SOURCE / "systemd"
    unit = (units / "iommud.service.in").read_text()
    default = (units / "default").read_text()
    for suffix, name, config in (("", "iommu", "iommud"), ("@", "iommu-%i", "iommud-%i")):
        tree.put(places["unitdir"] / f"iommud{suffix}.service", filled(unit, name=name, config=config))
    tree.configure(places["defaultdir"] / "iommud", filled(default, unit="iommud"))
    tree.put(places["sysusersdir"] / "iommud.conf", (units / "sysusers.conf").read_bytes())
    tree.put(places["udevrulesdir"] / "60-iommud.rules", (units / "udev.rules").read_bytes())
    tree.put(places["modulesloaddir"] / "iommud.conf", (units / "modules-load.conf").read_bytes())

    for page in sorted((SOURCE / "man").glob("*.[1-9]")):
        tree.put(places["mandir"] / f"man{page.suffix[1:]}" / page.name, page.read_bytes())
    completion = SOURCE / "completion"
    for source, place in (
        ("iommud.bash", places["bashcompletiondir"] / "iommud"),
        ("_iommud", places["zshcompletiondir"] / "_iommud"),
        ("iommud.fish", places["fishcompletiondir"] / "iommud.fish"),
    ):
        tree.put(place, (completion / source).read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description="see the Makefile")
    parser.add_argument("action", choices=("install", "uninstall"))
    parser.add_argument("--destdir", default="")
    for name in DIRECTORIES:
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    places = {name: Path(os.path.normpath(getattr(arguments, name))) for name in DIRECTORIES}
    relative = [name for name, path in places.items() if not path.is_absolute()]
    if relative:
        sys.exit(f"installer: {relative[0]} has to be an absolute path")
    tree = Tree(arguments.destdir.rstrip("/"), places["pkglibdir"] / LIST)
    if arguments.action == "uninstall":
        if not tree.files:
            sys.exit(f"installer: nothing is installed by {tree.real(tree.list_path)}")
        tree.clear()
        return
    tree.clear()
    try:
        install(tree, places)
    except Refused as refusal:
        tree.clear()
        sys.exit(f"installer: {refusal}")
    except BaseException:
        tree.clear()
        raise
    tree.save()


if __name__ == "__main__":
    main()
