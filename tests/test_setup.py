"""`scripts/setup`: the Pythons it takes, its progress, and that it goes on after an interrupt."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
TOO_OLD = "#!/bin/sh\nexit 1\n"
# Stands in for the installer, for no test may need the network: it makes what is looked for, and notes its arguments.
UV = """#!/bin/sh
echo "$@" >>{told}
case "$1 $2" in
"cache dir") echo {cache} ;;
"venv --quiet") mkdir -p .venv/bin && ln -s {python} .venv/bin/python ;;
*) {work} ;;
esac
"""
SAYS = """voltwire: making .venv for Python {version} (once; it takes a minute or so)
voltwire: installing 2 packages, 0 s
voltwire: installing Voltwire itself, 0 s
voltwire: .venv is ready
"""
VERSION = "{}.{}.{}".format(*sys.version_info)
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that set-up looks at, with locks of two packages."""
    made = tmp_path / "checkout"
    (made / "tests").mkdir(parents=True)
    shutil.copytree(ROOT / "scripts", made / "scripts")
    (made / "pyproject.toml").write_text("")
    for lock in (made / "requirements.lock", made / "tests" / "requirements.lock"):
        lock.write_text("one==1 \\\n    --hash=sha256:1\ntwo==2 ; python_version < '3.12'\n    # a note\n")
    return made


@pytest.fixture
def start(tmp_path: Path, checkout: Path) -> Start:
    """Starts set-up with the Pythons of these names, all of them but `old` the one that runs this."""

    def start(*names: str, old: str = "", work: str = ":", **options: Any) -> "subprocess.Popen[str]":
        programs = tmp_path / "programs"
        programs.mkdir(exist_ok=True)
        for name in {*names} - {one.name for one in programs.iterdir()}:
            (programs / name).symlink_to(sys.executable)
        scripts = {"uv": UV.format(told=tmp_path / "told", cache=tmp_path, python=sys.executable, work=work)}
        for name, text in (scripts | ({old: TOO_OLD} if old else {})).items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        for tool in ("sh", "dirname", "readlink", "cksum", "grep", "mkdir", "rm", "mv", "ln", "sleep"):
            if not (programs / tool).exists():
                (programs / tool).symlink_to(str(shutil.which(tool)))
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [checkout / "scripts" / "setup"],
            **(streams | options),
            env={"PATH": str(programs)},
            text=True,
            start_new_session=True,
            # A shell cannot trap what its parent ignores, as programs in the background do.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


@pytest.mark.parametrize("name", ["python3", "python3.15", "python3.14", "python3.11"])
def test_it_takes_any_python_that_is_new_enough(start: Start, name: str) -> None:
    process = start(name, old="" if name == "python3" else "python3")
    assert process.communicate() == ("", SAYS.format(version=VERSION))
    assert process.returncode == 0


def test_without_one_it_says_what_it_needs(start: Start) -> None:
    process = start(old="python3")
    told = "voltwire: needs Python 3.11 or newer on the PATH as python3; please install one.\n"
    assert process.communicate() == ("", told)
    assert process.returncode == 1


def test_once_ready_it_says_and_does_nothing(start: Start, tmp_path: Path) -> None:
    start("python3").communicate()
    asked = (tmp_path / "told").read_text()
    again = subprocess.run([tmp_path / "checkout" / "scripts" / "setup"], capture_output=True, text=True)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert (tmp_path / "told").read_text() == asked
    assert [line.partition(" --python")[0] for line in asked.splitlines()] == [
        "cache dir",
        "venv --quiet --no-project",
        "pip install --quiet",
        "pip install --quiet",
    ]


def test_the_installers_own_words_are_shown(start: Start, checkout: Path) -> None:
    process = start("python3", work="echo no index here >&2; exit 2")
    _, errors = process.communicate()
    assert "\nno index here\nvoltwire: set-up did not end: the installer's own words are above." in errors
    assert process.returncode == 1
    assert not (checkout / ".venv" / ".ready").exists()


def test_an_interrupt_is_answered_and_the_next_start_goes_on(start: Start, checkout: Path) -> None:
    process = start("python3", work="echo waits >&2; exec sleep 600")
    assert process.stderr is not None
    for line in process.stderr:
        if line == "waits\n":
            break
    os.killpg(process.pid, signal.SIGINT)
    told = "voltwire: set-up was interrupted; the next start takes it up again.\n"
    assert process.communicate() == ("", told)
    assert process.returncode == 130
    assert not (checkout / ".venv" / ".ready").exists()
    again = start("python3")
    assert again.communicate()[1] == SAYS.format(version=VERSION)


def test_on_a_terminal_one_line_is_drawn_anew(start: Start, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    seen = tmp_path / "seen"
    work = f"case $* in *.lock) until [ -e '{seen}' ]; do sleep 0.05; done;; esac"
    process = start("python3", work=work, stderr=theirs)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            drawn += os.read(ours, 4096)
        except OSError:
            break
        if re.search(rb", [1-9]\d* s", drawn):
            seen.touch()
    os.close(ours)
    process.communicate()
    seconds = re.findall(r"\r\x1b\[Kvoltwire: installing 2 packages, (\d+) s(?=\r)", drawn.decode())
    assert seconds[0] == "0"
    assert len(seconds) > 1
    assert drawn.endswith(b"\r\x1b[Kvoltwire: .venv is ready\r\n")


def test_what_pip_collects_is_counted() -> None:
    words = "Collecting one==1\\nIgnoring two: no\\n"
    pip = f"import sys; print('{words}', end='', flush=True); sys.stdin.read()"
    command = [sys.executable, ROOT / "scripts" / "progress.py", "2 packages", sys.executable, "-c", pip]
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(command, **streams, env={"CI": "true"}) as in_ci,
        subprocess.Popen(command, **streams, env={}) as process,
    ):
        assert process.stderr is not None
        assert process.stderr.readline() == "voltwire: installing 2 packages, 0 s\n"
        assert re.fullmatch(r"voltwire: fetched 2 of 2 packages, \d+ s\n", process.stderr.readline())
        process.communicate()
        assert in_ci.communicate()[1] == "voltwire: installing 2 packages, 0 s\n"
