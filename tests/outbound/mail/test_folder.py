"""Mails as files."""

import email
import email.policy
from pathlib import Path

import pytest

from app.outbound.attempt import AttemptOutcome
from app.outbound.mail.folder import FolderMailer
from tests.outbound.mail.mailers import FROM, TO, mail


async def test_the_folder_keeps_each_mail_once(tmp_path: Path) -> None:
    mailer = FolderMailer(tmp_path / "data" / "mail")
    for text in ("first\n", "second\n"):
        attempt = await mailer.send(mail(text), FROM, TO)
        assert (attempt.outcome, attempt.status) == (AttemptOutcome.SUCCEEDED, None)
    await mailer.send(mail(message_id="<dlv_2@voltwire.example>"), FROM, TO)
    await mailer.aclose()
    names = sorted(path.name for path in (tmp_path / "data" / "mail").iterdir())
    assert names == ["dlv_1@voltwire.example.eml", "dlv_2@voltwire.example.eml"]
    found = email.message_from_bytes((tmp_path / "data" / "mail" / names[0]).read_bytes())
    assert found.get_payload(0).get_payload() == "second\r\n"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["Bright Energy", "Énergie Vive 漢字"])
async def test_links_are_whole_lines_of_the_file(tmp_path: Path, name: str) -> None:
    link = "http://127.0.0.1:8000/email-subscriptions/confirm/vw_confirm_" + "x=" * 200
    attempt = await FolderMailer(tmp_path).send(mail(f"{name} asks:\n{link}\n"), FROM, TO)
    assert attempt.outcome is AttemptOutcome.SUCCEEDED
    (path,) = tmp_path.iterdir()
    assert {f"{name} asks:", link} <= set(path.read_text().splitlines())
    found = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    (plain, _) = found.iter_parts()
    assert plain.get_content().replace("\r\n", "\n") == f"{name} asks:\n{link}\n"


@pytest.mark.parametrize("local", ["../../etc/passwd", "..", "a/b\\c", "x" * 300])
async def test_no_message_id_leaves_the_folder(tmp_path: Path, local: str) -> None:
    message = mail()
    del message["Message-ID"]
    message["Message-ID"] = f"<{local}@voltwire.example>"
    folder = tmp_path / "mail"
    attempt = await FolderMailer(folder).send(message, FROM, TO)
    assert attempt.outcome is AttemptOutcome.SUCCEEDED
    (path,) = (one for one in tmp_path.rglob("*") if one.is_file())
    assert path.parent == folder
    assert path.suffix == ".eml"
    assert not path.name.startswith(".")


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("in the way")
    attempt = await FolderMailer(tmp_path / "mail").send(mail(), FROM, TO)
    assert attempt.outcome is AttemptOutcome.CONNECTION
    assert attempt.error == "The mail could not be written: File exists."
