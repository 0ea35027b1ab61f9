"""Settings: their defaults, their forms, and the messages about wrong ones."""

import asyncio
import ipaddress
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from pydantic import ValidationError

from app.core.crypto import KEY_FORM
from app.core.settings import Settings
from app.db import migrations
from tests.services.patience import PATIENCE
from tests.services.ports import free_port

README = Path(__file__).parents[2] / "README.md"
VOLTWIRE = Path(sys.executable).with_name("voltwire")
POSTGRES = "postgresql://voltwire:secret@127.0.0.1:1/voltwire"
KEY = "a secret key for the tests of settings"

# Variable, wrong value, message.
WRONG = [
    ("RATE_LIMIT", "x", "Input should be a valid number, unable to parse string as a number"),
    ("RATE_LIMIT", "0", "Input should be greater than 0"),
    ("RATE_LIMIT", "inf", "Input should be a finite number"),
    ("WEBHOOK_TIMEOUT", "301", "Input should be less than or equal to 300"),
    ("WEBHOOK_TIMEOUT", "nan", "Input should be less than or equal to 300"),
    ("EVENT_RETENTION_DAYS", "0", "Input should be greater than or equal to 1"),
    ("EVENT_RETENTION_DAYS", "99999999999", "Input should be less than or equal to 36500"),
    ("MAX_BODY", "1", "Input should be greater than or equal to 1024"),
    ("WEBHOOK_RETRY_SCHEDULE", "5,-1", "must be seconds of 0 to 2592000 (30 days), separated by commas"),
    ("WEBHOOK_RETRY_SCHEDULE", "nan", "must be seconds of 0 to 2592000 (30 days), separated by commas"),
    (
        "WEBHOOK_ALLOW_NETWORKS",
        "10.0.0.0/8,127.0.0.1/8",
        "must be networks such as 10.0.0.0/8 or 2001:db8::/32, separated by commas; got '127.0.0.1/8'",
    ),
    (
        "TRUSTED_PROXIES",
        "proxy",
        "must be networks such as 10.0.0.0/8 or 2001:db8::/32, separated by commas; got 'proxy'",
    ),
    (
        "ALLOWED_ORIGINS",
        "https://a.example/app",
        "must be origins such as https://app.example.com, separated by commas; got 'https://a.example/app'",
    ),
    (
        "DATABASE_URL",
        "mysql://there",
        "must be sqlite:///path or postgresql://user:password@host:port/name",
    ),
    (
        "DATABASE_URL",
        "postgresql://there:port/name",
        "must be sqlite:///path or postgresql://user:password@host:port/name",
    ),
    (
        "DATABASE_URL",
        "sqlite:///:memory:",
        (
            "must be sqlite:///path or postgresql://user:password@host:port/name; "
            "a database in memory is none for several connections"
        ),
    ),
    (
        "BROADCAST_URL",
        "kafka://there",
        "must be memory://, redis://host:port or postgresql://user:password@host:port/name",
    ),
    ("PUBLIC_URL", "voltwire.example.com", "must be a link such as https://voltwire.example.com"),
    ("MAIL_FROM", "Voltwire", "must be an address such as Voltwire <events@example.com>"),
]


@pytest.fixture(autouse=True)
def _no_other_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("VOLTWIRE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `voltwire`."""
    chosen = {f"VOLTWIRE_{name}": value for name, value in variables.items()}
    done = subprocess.run(
        [VOLTWIRE, *arguments], env=os.environ | chosen, capture_output=True, text=True, timeout=PATIENCE
    )
    return done.returncode, done.stdout, done.stderr


def test_the_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    settings = Settings()
    assert settings.database == f"sqlite:///{tmp_path}/.voltwire/voltwire.db"
    assert settings.model_dump() == {
        "database_url": None,
        "broadcast_url": "memory://",
        "data_dir": Path(".voltwire"),
        "public_url": None,
        "secret_key": None,
        "allowed_origins": [],
        "trusted_proxies": [],
        "smtp_url": None,
        "mail_from": "Voltwire <events@localhost>",
        "dkim_domain": None,
        "dkim_selector": None,
        "dkim_key": None,
        "privacy_contact": "privacy@localhost",
        "webhook_allow_networks": [],
        "feed_allow_networks": [],
        "webhook_retry_schedule": [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400],
        "webhook_timeout": 15,
        "event_retention_days": 90,
        "max_body": 4_194_304,
        "max_depth": 12,
        "max_tokens": 2000,
        "max_aliases": 30,
        "max_cost": 5000,
        "max_sockets": 10_000,
        "max_subscriptions": 100,
        "max_connections_per_address": 10_000,
        "rate_limit": 100,
        "operations_file": None,
        "metrics_networks": [
            ipaddress.ip_network(one)
            for one in ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
        ],
    }


def test_the_readme_has_every_setting_and_no_other() -> None:
    cells = [
        line.split("|")[1] for line in README.read_text().splitlines() if line.startswith("| `VOLTWIRE_")
    ]
    names: set[str] = set()
    for cell in cells:
        first = ""
        for name in re.findall(r"`(\w+)`", cell):
            # `VOLTWIRE_DKIM_DOMAIN`, `_SELECTOR`: the first one's beginning and this one's end.
            first = name if name.startswith("VOLTWIRE_") else first.rpartition("_")[0] + name
            names.add(first)
    assert names == {f"VOLTWIRE_{name.upper()}" for name in Settings.model_fields}


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "VOLTWIRE_ALLOWED_ORIGINS", "https://a.example, http://LOCALHOST:3000/ ,capacitor://app"
    )
    monkeypatch.setenv("VOLTWIRE_TRUSTED_PROXIES", "10.0.0.0/8,192.0.2.7,2001:db8::/32")
    monkeypatch.setenv("VOLTWIRE_WEBHOOK_ALLOW_NETWORKS", "127.0.0.0/8")
    monkeypatch.setenv("VOLTWIRE_WEBHOOK_RETRY_SCHEDULE", "0, 0.5,10")
    monkeypatch.setenv("VOLTWIRE_SECRET_KEY", f"{KEY}, {KEY}2")
    settings = Settings()
    assert settings.allowed_origins == ["https://a.example", "http://localhost:3000", "capacitor://app"]
    assert settings.trusted_proxies == [
        ipaddress.ip_network(one) for one in ("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32")
    ]
    assert settings.webhook_allow_networks == [ipaddress.ip_network("127.0.0.0/8")]
    assert settings.webhook_retry_schedule == [0, 0.5, 10]
    assert settings.secret_keys == [KEY, f"{KEY}2"]


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"VOLTWIRE_{name.upper()}", "")
    assert Settings() == Settings.model_construct()


@pytest.mark.parametrize(("name", "value", "sentence"), WRONG)
def test_a_wrong_value_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(f"VOLTWIRE_{name}", value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    (error,) = caught.value.errors()
    assert error["loc"] == (name.lower(),)
    assert error["msg"].removeprefix("Value error, ") == sentence


def test_the_program_names_every_wrong_variable_and_ends() -> None:
    code, out, said = run("serve", RATE_LIMIT="x", WEBHOOK_RETRY_SCHEDULE="-1")
    assert (code, out) == (1, "")
    assert said.splitlines() == [
        "VOLTWIRE_WEBHOOK_RETRY_SCHEDULE: must be seconds of 0 to 2592000 (30 days), separated by commas",
        "VOLTWIRE_RATE_LIMIT: Input should be a valid number, unable to parse string as a number",
    ]


# Errors that show only in use.
UNUSABLE = [
    (
        {"SMTP_URL": "mail.example.com"},
        "VOLTWIRE_SMTP_URL: The SMTP URL is smtp://host:port or smtps://host:port.",
    ),
    (
        {"DKIM_DOMAIN": "example.com", "DKIM_SELECTOR": "one"},
        "VOLTWIRE_DKIM_DOMAIN, VOLTWIRE_DKIM_SELECTOR and VOLTWIRE_DKIM_KEY go together: set all three or none.",
    ),
    (
        {"DKIM_DOMAIN": "example.com", "DKIM_SELECTOR": "one", "DKIM_KEY": "/nowhere.pem"},
        "VOLTWIRE_DKIM_KEY: The DKIM key file cannot be read: No such file or directory.",
    ),
    (
        {"SECRET_KEY": f"{KEY},short"},
        f"VOLTWIRE_SECRET_KEY: must be {KEY_FORM}.",
    ),
    (
        {"DATABASE_URL": POSTGRES},
        f"VOLTWIRE_SECRET_KEY is required with PostgreSQL: must be {KEY_FORM}.",
    ),
    (
        {"OPERATIONS_FILE": "/nowhere.json"},
        "VOLTWIRE_OPERATIONS_FILE: cannot read /nowhere.json: No such file or directory",
    ),
    ({"DATA_DIR": "/dev/null/here"}, "VOLTWIRE_DATA_DIR: cannot use /dev/null/here: Not a directory."),
]


# All calls in one process, as most of a start is imports.
ALL_AT_ONCE = """
import json, os, sys
from typer.testing import CliRunner
from app.cli.cli import app

for arguments, variables in json.load(sys.stdin):
    done = CliRunner().invoke(app, arguments, env=variables)
    print(json.dumps([done.exit_code, done.stdout, done.stderr, os.listdir()]))
"""


def run_each(*calls: tuple[Sequence[str], dict[str, str]]) -> list[tuple[int, str, str, list[str]]]:
    """Exit code, output and errors of `voltwire` for each call's arguments and settings, and the files there then."""
    told = [
        (arguments, {f"VOLTWIRE_{name}": value for name, value in more.items()}) for arguments, more in calls
    ]
    argv = [sys.executable, "-c", ALL_AT_ONCE]
    done = subprocess.run(argv, input=json.dumps(told), capture_output=True, text=True, check=True)
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_the_program_says_what_it_cannot_use_and_ends() -> None:
    said = run_each(*((["worker"], variables) for variables, _ in UNUSABLE))
    assert [one[:3] for one in said] == [(1, "", f"{sentence}\n") for _, sentence in UNUSABLE]


def test_a_command_says_that_its_database_is_away_and_ends() -> None:
    away = f"postgresql://voltwire:secret@127.0.0.1:{free_port()}/voltwire"
    code, out, said = run("migrate", DATABASE_URL=away, SECRET_KEY=KEY)
    assert (code, out) == (1, "")
    (sentence,) = said.splitlines()
    assert sentence.startswith("VOLTWIRE_DATABASE_URL: the database cannot be used: ")
    assert "secret" not in sentence


def test_operators_commands_elsewhere_make_no_database(tmp_path: Path) -> None:
    create, revoke = (
        ("accounts", "create", "Acme", "--email", "ops@acme.example"),
        ("consents", "revoke", "hc_1"),
    )
    *before, migrated, again, created, revoked = run_each(
        *((command, {}) for command in (create, revoke, ("migrate",), ("migrate",), create, revoke))
    )
    nothing = (
        f"There is no database at {tmp_path}/.voltwire/voltwire.db. Run this in the folder that the server was "
        "started in, set VOLTWIRE_DATA_DIR or VOLTWIRE_DATABASE_URL as for the server, or make one with "
        "`voltwire migrate`.\n"
    )
    assert before == [(1, "", nothing, [])] * 2
    last = ScriptDirectory(str(Path(migrations.__file__).parent)).get_current_head()
    assert migrated[:3] == (0, f"Made the database's tables, at step {last}.\n", "")
    assert again[:3] == (0, f"The database is at step {last} already: there was nothing to do.\n", "")
    assert (created[0], created[2]) == (0, "")
    assert revoked[:3] == (1, "", "There is no such hosted consent; check the id.\n")


def test_an_account_needs_a_database_with_our_tables(postgres_url: str) -> None:
    code, out, said = run(
        "accounts", "create", "Acme", "--email", "ops@acme.example", DATABASE_URL=postgres_url, SECRET_KEY=KEY
    )
    assert (code, out) == (1, "")
    assert said == (
        "VOLTWIRE_DATABASE_URL: the database has no tables of Voltwire yet; run `voltwire migrate` first.\n"
    )


def test_unknown_variables_are_warned_of_with_what_was_meant() -> None:
    code, _, said = run("migrate", RATE_LIMT="5", api_key="vw_live_x", NONSENSE_AT_ALL="1", Max_Body="5000")
    assert code == 0
    assert [
        json.loads(line)["event"] for line in said.splitlines() if json.loads(line)["level"] == "warning"
    ] == [
        "VOLTWIRE_NONSENSE_AT_ALL is no setting and changes nothing. The README lists those that there are.",
        "VOLTWIRE_RATE_LIMT is no setting and changes nothing. Did you mean VOLTWIRE_RATE_LIMIT?",
    ]


def test_the_program_tells_its_version() -> None:
    assert run("--version") == (0, f"voltwire {version('voltwire')}\n", "")


def test_a_data_folder_gets_one_key_which_only_its_owner_can_read(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    first = Settings(data_dir=folder).secret_keys
    assert Settings(data_dir=folder).secret_keys == first
    assert [len(key) for key in first] == [64]
    assert [path.name for path in folder.iterdir()] == ["secret.key"]
    assert stat.S_IMODE((folder / "secret.key").stat().st_mode) == 0o600


async def test_processes_that_start_at_once_agree_on_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    program = (
        "import sys; from pathlib import Path; from app.core.settings import Settings; sys.stdin.read();"
        f"print(Settings(data_dir=Path({str(folder)!r})).secret_keys[0])"
    )
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdin=pipe, stdout=pipe)
        for _ in range(8)
    ]
    # Each waits for the end of its input, which comes to all at once.
    told = await asyncio.gather(*(process.communicate(b"") for process in processes))
    keys = {key.decode().strip() for key, _ in told}
    assert keys == {(folder / "secret.key").read_text()}
    assert [path.name for path in folder.iterdir()] == ["secret.key"]
    assert stat.S_IMODE((folder / "secret.key").stat().st_mode) == 0o600
