"""DKIM signatures of mails on their way out."""

import threading
from pathlib import Path
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric import rsa

from app.outbound.mail.dkim import Dkim
from app.outbound.mail.folder import FolderMailer
from tests.outbound.mail.mail_servers import good_server
from tests.outbound.mail.mailers import FROM, TO, mail, mailer_to


class WatchedSigner(Dkim):
    """Tells in which thread it signs."""

    threads: ClassVar[list[int]] = []

    def sign(self, content: bytes) -> bytes:
        self.threads.append(threading.get_ident())
        return super().sign(content)


async def test_mails_are_signed_beside_the_loop(tmp_path: Path) -> None:
    signer = WatchedSigner("voltwire.example", "s1", rsa.generate_private_key(65537, 2048))
    async with good_server() as (port, inbox), mailer_to(port, signer=signer) as mailer:
        await mailer.send(mail(), FROM, TO)
    await FolderMailer(tmp_path, signer).send(mail(), FROM, TO)
    (envelope,) = inbox.envelopes
    (file,) = tmp_path.iterdir()
    for content in (envelope.content, file.read_bytes()):
        assert isinstance(content, bytes)
        assert content.startswith(b"DKIM-Signature: v=1;")
    assert len(signer.threads) == 2
    assert threading.get_ident() not in signer.threads
