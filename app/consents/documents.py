"""Evidence of consents: the record of a digital approval, uploaded documents, and their storage."""

import enum
import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor, visible
from app.consents.models import Evidence, EvidenceDocument, HostedConsent
from app.consents.terms import PAGE_VERSION, Terms, uk_time_words
from app.core import clock
from app.core.ids import is_id
from app.web.render import render

MAX_BYTES: Final = 10 * 1024 * 1024
HTML_TYPE: Final = "text/html; charset=utf-8"


class DocumentType(enum.Enum):
    """A type of document that may be uploaded: content type, first bytes, suffix of the file name."""

    PDF = ("application/pdf", b"%PDF-", "pdf")
    PNG = ("image/png", b"\x89PNG\r\n\x1a\n", "png")
    JPEG = ("image/jpeg", b"\xff\xd8\xff", "jpg")

    def __init__(self, content_type: str, magic: bytes, suffix: str) -> None:
        self.content_type = content_type
        self.magic = magic
        self.suffix = suffix

    @classmethod
    def named(cls, content_type: str) -> "DocumentType | None":
        """The type that a Content-Type header names, or None."""
        plain = content_type.partition(";")[0].strip().lower()
        return next((one for one in cls if one.content_type == plain), None)


@dataclass(frozen=True)
class Document:
    file_name: str
    content_type: str
    content: bytes
    page_version: str | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def approval_record(consent: HostedConsent, terms: Terms, at: datetime, way: str) -> Document:
    """The record of a digital approval as one self-contained HTML document."""
    html = render(
        "consent_evidence.html",
        consent=consent,
        terms=terms,
        way=way,
        at_utc=clock.format_utc(at),
        at_uk=uk_time_words(at),
    )
    return Document(f"consent-{consent.id}.html", HTML_TYPE, html.encode(), PAGE_VERSION)


def uploaded_document(consent: HostedConsent, document_type: DocumentType, content: bytes) -> Document:
    return Document(f"consent-{consent.id}.{document_type.suffix}", document_type.content_type, content)


async def store(session: AsyncSession, consent: HostedConsent, document: Document) -> Evidence:
    evidence = Evidence(
        account_id=consent.account_id,
        customer_id=consent.customer_id,
        hosted_consent_id=consent.id,
        file_name=document.file_name,
        content_type=document.content_type,
        size=len(document.content),
        sha256=document.sha256,
        page_version=document.page_version,
    )
    session.add(evidence)
    await session.flush()
    session.add(EvidenceDocument(evidence_id=evidence.id, content=document.content))
    await session.flush()
    return evidence


def select_evidence(actor: Actor, consent_ids: list[str]) -> Select[Any]:
    """Selects the evidence of these consents that the actor may see."""
    return visible(select(Evidence).where(col(Evidence.hosted_consent_id).in_(consent_ids)), actor)


async def find_evidence(session: AsyncSession, actor: Actor, consent_id: str) -> Evidence | None:
    """The evidence of a consent; None where the actor may see none or the id is not a consent's."""
    if not is_id(consent_id, "hc"):
        return None
    evidence: Evidence | None = (
        await session.execute(select_evidence(actor, [consent_id]))
    ).scalar_one_or_none()
    return evidence


async def content(session: AsyncSession, evidence: Evidence) -> bytes:
    """The bytes of the document, exactly as stored."""
    statement = select(col(EvidenceDocument.content)).where(col(EvidenceDocument.evidence_id) == evidence.id)
    kept: bytes = (await session.execute(statement)).scalar_one()
    return kept
