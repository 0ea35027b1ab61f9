"""Links in names of accounts, which mails to unconfirmed people do not show."""

import pytest

from app.outbound.mail.link_removal import without_links
from tests.accounts.state import mutation
from tests.consents.helpers import ask_for_consent
from tests.delivery.asking import (
    CREATE_SUBSCRIPTION,
    outgoing_mails,
)
from tests.meters.asking import run
from tests.outbound.mail.test_unconfirmed import CREATE_USER, GRACE, send_code
from tests.support import TestAccount, World

UPDATE_ACCOUNT = mutation("updateAccount", "account { id }")


@pytest.mark.parametrize("kind", ["subscription", "user", "code"])
async def test_a_link_in_an_accounts_name_is_not_shown(world: World, kind: str) -> None:
    account = await world.account()
    name = "Prize: https://evil.example/x or evil.example"
    if kind == "code":
        asked = await ask_for_consent(world)
        await run(world, TestAccount(asked.account_id, "", asked.key), UPDATE_ACCOUNT, name=name)
        await send_code(asked)
    else:
        await run(world, account, UPDATE_ACCOUNT, name=name)
        document, values = (
            (CREATE_SUBSCRIPTION, {}) if kind == "subscription" else (CREATE_USER, {"name": name})
        )
        await run(world, account, document, email=GRACE, **values)
    [(_, mail)] = await outgoing_mails(world)
    assert "Prize: [link removed] or [link removed]" in mail["subject"]
    for part in mail.values():
        assert "evil" not in part


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Bright Energy Ltd.", "Bright Energy Ltd."),
        ("E.ON, J.P. Morgan & St. James's", "E.ON, J.P. Morgan & St. James's"),
        ("No. 1: 10.5 kWh a/c", "No. 1: 10.5 kWh a/c"),
        ("www.evil", "[link removed]"),
        ("(EVIL.com).", "[link removed]"),
        ("evil。com now", "[link removed] now"),
        ("t.co", "[link removed]"),
        ("E.ON/win", "[link removed]"),
        ("ring me@evil.com", "ring [link removed]"),
        ("ftp://x", "[link removed]"),
        ("10.0.0.1", "[link removed]"),
        ("größe.de", "[link removed]"),
        ("evil\u200b.com", "[link removed]"),
        ("e\u00advil.\u2060com", "[link removed]"),
    ],
)
def test_what_looks_like_a_link_is_left_out(name: str, shown: str) -> None:
    assert without_links(name) == shown
