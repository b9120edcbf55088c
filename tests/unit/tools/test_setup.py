"""tools/setup.sh and bin/kata in a checkout made up for it, with programs that write down how they were called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COPIED = ("bin/kata", "tools/setup.sh", "src/kata/ctl/check/packages.txt")

# Stands in for the system's Python: `-m venv` makes an environment whose python is this very script.
PYTHON = """#!/bin/bash
echo "python $*" >>"$CALLS"
case "$*" in
    *"-m venv "*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
    *"-m pip "*)
        if [[ -e $BROKEN ]]; then
            rm "$BROKEN"
            [[ ! -s $BROKEN.twice ]] || mv "$BROKEN.twice" "$BROKEN"
            exit 1
        fi
        sleep "${SLOW:-0}" ;;
    *"-m kata.ctl"*) echo "${@: 4}" "$KATA_DATA_DIR" ;;
esac
"""
APT_GET = """#!/bin/bash
echo "apt-get [$DEBIAN_FRONTEND] $*" >>"$CALLS"
[[ $* != *" install "* || -e $LISTS ]] || { touch "$LISTS"; exit 100; }
"""
DPKG_QUERY = """#!/bin/bash
for name in "${@: 4}"; do [[ $name == zstd ]] || echo "installed $name"; done
"""
OS_RELEASE = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\n'


class Checkout:
    """A folder that looks like a checkout, and what was called while it was set up."""

    def __init__(self, root: Path) -> None:
        self.root = root / "checkout"
        self.calls_file = root / "calls"
        self.broken = root / "broken"
        for name in COPIED:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.root / name)
        (self.root / "requirements").mkdir()
        for name in ("run", "dev", "build"):
            (self.root / "requirements" / f"{name}.txt").write_text(f"{name}==1\n")
        self.programs = root / "programs"
        self.programs.mkdir()
        texts = {"python3.11": PYTHON, "apt-get": APT_GET, "dpkg-query": DPKG_QUERY, "dpkg": "#!/bin/sh\n"}
        for name, text in texts.items():
            (self.programs / name).write_text(text)
            (self.programs / name).chmod(0o755)
        self.os_release = root / "os-release"
        self.os_release.write_text(OS_RELEASE)
        script = self.root / "tools/setup.sh"
        text = script.read_text()
        replaced = {"/usr/bin/python3.11": self.programs / "python3.11", "/etc/os-release": self.os_release}
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, str(new))
        # Who may install packages is another matter, and tests of this floor need no root.
        script.write_text(text.replace("((EUID == 0))", "true"))

    def environment(self, **extra: str) -> dict[str, str]:
        return {
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "CALLS": str(self.calls_file),
            "BROKEN": str(self.broken),
            "LISTS": str(self.broken.with_name("lists")),
            **extra,
        }

    def run(self, *argv: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in argv]
        return subprocess.run(
            words,
            env=self.environment(**extra),
            cwd=self.root.parent,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def setup(self, mode: str = "dev", **extra: str) -> subprocess.CompletedProcess[str]:
        return self.run(self.root / "tools/setup.sh", mode, **extra)

    def calls(self, word: str) -> list[str]:
        """The calls since the last `forget` that contain `word`."""
        text = self.calls_file.read_text() if self.calls_file.exists() else ""
        return [line for line in text.splitlines() if word in line]

    def forget(self) -> None:
        self.calls_file.unlink(missing_ok=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_from_nothing_to_ready_and_then_nothing_more_to_do(checkout: Checkout) -> None:
    done = checkout.setup()
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "installing Debian packages: zstd\n" in done.stderr
    assert done.stderr.endswith("set-up: ready\n")
    apt = checkout.calls("apt-get")
    assert apt
    assert all("[noninteractive]" in call and "--no-install-recommends" in call for call in apt)
    assert apt[-1].endswith("install zstd")
    locked = [call for call in checkout.calls("-m pip") if "--requirement" in call]
    assert len(locked) == 2
    assert all("--require-hashes --no-deps --only-binary :all:" in call for call in locked)
    checkout.forget()
    again = checkout.setup()
    assert (again.returncode, again.stdout, again.stderr, checkout.calls("")) == (0, "", "", [])


def test_for_users_no_tools_of_developers_are_installed(checkout: Checkout) -> None:
    assert checkout.setup("run").returncode == 0
    assert not any("dev.txt" in call for call in checkout.calls("-m pip"))
    checkout.forget()
    assert checkout.setup("dev").returncode == 0
    assert checkout.calls("-m venv") == []
    assert [call.split()[-1] for call in checkout.calls("--requirement")] == ["requirements/dev.txt"]


def test_a_failed_download_is_tried_once_more(checkout: Checkout) -> None:
    checkout.broken.touch()
    done = checkout.setup()
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("trying once more") == 1


def test_after_a_failure_the_next_run_goes_on(checkout: Checkout) -> None:
    checkout.broken.touch()
    checkout.broken.with_name("broken.twice").write_text("x")
    failed = checkout.setup()
    assert failed.returncode == 1
    assert "set-up: Python packages cannot be installed\n  hint: " in failed.stderr
    checkout.forget()
    done = checkout.setup()
    assert done.returncode == 0, done.stderr
    assert len(checkout.calls("-m venv")) == 1, "half an environment must not be built upon"
    assert checkout.calls("apt-get") == []


def test_killed_in_the_middle_and_started_again(checkout: Checkout) -> None:
    with subprocess.Popen(
        [checkout.root / "tools/setup.sh", "dev"],
        env=checkout.environment(SLOW="30"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        while "Python packages" not in process.stderr.readline():
            assert process.poll() is None
        os.killpg(process.pid, 9)
    done = checkout.setup()
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("set-up: ready\n")


def test_two_at_once_do_the_work_once(checkout: Checkout) -> None:
    processes = [
        subprocess.Popen(
            [checkout.root / "tools/setup.sh", "dev"],
            env=checkout.environment(SLOW="0.3"),
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert sum("set-up: ready" in text for text in errors) == 1
    assert len(checkout.calls("-m venv")) == 1


@pytest.mark.parametrize("name", ["run", "build", "dev"])
def test_a_changed_lock_file_makes_the_environment_anew(checkout: Checkout, name: str) -> None:
    assert checkout.setup().returncode == 0
    checkout.forget()
    lock = checkout.root / "requirements" / f"{name}.txt"
    lock.touch()
    assert checkout.setup().returncode == 0
    assert checkout.calls("") == [], "the content counts, not the time"
    lock.write_text("other==2\n")
    assert checkout.setup().returncode == 0
    assert len(checkout.calls("-m venv")) == 1


def test_says_so_where_it_is_not_debian_12(checkout: Checkout) -> None:
    checkout.os_release.write_text('ID=fedora\nVERSION_ID="40"\nPRETTY_NAME="Fedora Linux 40"\n')
    done = checkout.setup()
    assert done.returncode == 1
    assert done.stderr.startswith("set-up: Fedora Linux 40 is not Debian 12")
    assert checkout.calls("apt-get") == []


def test_kata_sets_itself_up_with_a_clean_standard_output(checkout: Checkout) -> None:
    done = checkout.run(checkout.root / "bin/kata", "ps", "-a")
    assert (done.returncode, done.stdout) == (0, f"ps -a {checkout.root}/.kata/data\n"), done.stderr
    assert "set-up: ready" in done.stderr


@pytest.mark.parametrize("way", ["link", "relative", "dotted"])
def test_kata_finds_its_checkout_and_starts_no_set_up_when_there_is_nothing_to_do(checkout: Checkout, way: str) -> None:
    assert checkout.setup("run").returncode == 0
    (checkout.root / "tools/setup.sh").write_text("#!/bin/sh\nexit 9\n")
    link = checkout.root.parent / "kata"
    link.symlink_to(checkout.root / "bin/kata")
    ways: dict[str, str | Path] = {
        "link": link,
        "relative": "checkout/bin/kata",
        "dotted": f"{checkout.root}/tools/../bin/kata",
    }
    done = checkout.run(ways[way], "ps", "a  b")
    assert (done.returncode, done.stdout) == (0, f"ps a  b {checkout.root}/.kata/data\n"), done.stderr
    assert checkout.run(link, "ps", KATA_DATA_DIR="/elsewhere").stdout == "ps /elsewhere\n"
    (checkout.root / "requirements/run.txt").touch()
    assert checkout.run(link, "ps").returncode == 9, "a younger lock file is looked into"
