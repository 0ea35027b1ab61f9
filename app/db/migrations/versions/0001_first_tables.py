"""The tables of the first version."""

import sqlalchemy as sa
from alembic import op

from app.db.types import Json, Text, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("logo_url", Text, nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "event_meters",
        sa.Column("account_id", Text, nullable=False),
        sa.Column("meter_id", Text, nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "meter_id", "sequence"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("prefix", Text, nullable=False),
        sa.Column("secret_hash", Text, nullable=False),
        sa.Column("previous_hash", Text, nullable=True),
        sa.Column("previous_until", UtcDateTime(), nullable=True),
        sa.Column("scopes", Json, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("last_used_at", UtcDateTime(), nullable=True),
        sa.Column("expires_at", UtcDateTime(), nullable=True),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("previous_hash"),
        sa.UniqueConstraint("secret_hash"),
    )
    op.create_index(op.f("ix_api_keys_account_id"), "api_keys", ["account_id"], unique=False)
    op.create_table(
        "customers",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("email", Text, nullable=False),
        sa.Column("address", Text, nullable=True),
        sa.Column("logo_url", Text, nullable=True),
        sa.Column("metadata", Json, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_customers_page", "customers", ["account_id", "id"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("event_id", Text, nullable=False),
        sa.Column("event_sequence", sa.BigInteger(), nullable=True),
        sa.Column("event_type", Text, nullable=False),
        sa.Column("test_event", Json, nullable=True),
        sa.Column("destination_id", Text, nullable=False),
        sa.Column("replay_id", Text, nullable=False),
        sa.Column("status", Text, nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("digest_id", Text, nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("attempts_made", sa.Integer(), nullable=False),
        sa.Column("schedule_start", sa.Integer(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=True),
        sa.Column("leased_until", UtcDateTime(), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("event_id", "destination_id", "replay_id", name="uq_deliveries_once"),
    )
    op.create_index("ix_deliveries_destination", "deliveries", ["destination_id", "id"], unique=False)
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["destination_id", "lane", "due_at", "id"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index("ix_deliveries_event", "deliveries", ["account_id", "event_sequence"], unique=False)
    op.create_index("ix_deliveries_page", "deliveries", ["account_id", "id"], unique=False)
    op.create_index(
        "ix_deliveries_replay",
        "deliveries",
        ["replay_id"],
        unique=False,
        sqlite_where=sa.text("replay_id <> ''"),
        postgresql_where=sa.text("replay_id <> ''"),
    )
    op.create_table(
        "dispatch",
        sa.Column("account_id", Text, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("account_id"),
    )
    op.create_table(
        "email_subscriptions",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("email", Text, nullable=False),
        sa.Column("description", Text, nullable=True),
        sa.Column("event_types", Json, nullable=True),
        sa.Column("filter", Json, nullable=True),
        sa.Column("digest", Text, nullable=False),
        sa.Column("status", Text, nullable=False),
        sa.Column("suspended_reason", Text, nullable=True),
        sa.Column("first_sequence", sa.BigInteger(), nullable=True),
        sa.Column("confirm_hash", Text, nullable=True),
        sa.Column("confirm_until", UtcDateTime(), nullable=True),
        sa.Column("confirm_sent_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("confirm_hash"),
    )
    op.create_index("ix_email_subscriptions_page", "email_subscriptions", ["account_id", "id"], unique=False)
    op.create_table(
        "events",
        sa.Column("account_id", Text, nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", Text, nullable=False),
        sa.Column("type", Text, nullable=False),
        sa.Column("occurred_at", UtcDateTime(), nullable=False),
        sa.Column("subject_id", Text, nullable=False),
        sa.Column("customer_id", Text, nullable=True),
        sa.Column("data", Json, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("account_id", "sequence"),
        sa.UniqueConstraint("id"),
    )
    op.create_index("ix_events_customer", "events", ["account_id", "customer_id", "sequence"], unique=False)
    op.create_table(
        "idempotent_mutations",
        sa.Column("account_id", Text, nullable=False),
        sa.Column("mutation", Text, nullable=False),
        sa.Column("key", Text, nullable=False),
        sa.Column("input_hash", Text, nullable=False),
        sa.Column("payload_encrypted", Text, nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("account_id", "mutation", "key"),
    )
    op.create_index(
        op.f("ix_idempotent_mutations_created_at"), "idempotent_mutations", ["created_at"], unique=False
    )
    op.create_table(
        "outgoing_mails",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("recipient", Text, nullable=False),
        sa.Column("content_encrypted", Text, nullable=True),
        sa.Column("attempts_made", sa.Integer(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=True),
        sa.Column("leased_until", UtcDateTime(), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("error", Text, nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_outgoing_mails_due",
        "outgoing_mails",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_table(
        "streams",
        sa.Column("account_id", Text, nullable=False),
        sa.Column("epoch", Text, nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("first_sequence", sa.BigInteger(), nullable=False),
        sa.Column("last_occurred_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("account_id"),
    )
    op.create_table(
        "users",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("email", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("role", Text, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("url", Text, nullable=False),
        sa.Column("description", Text, nullable=True),
        sa.Column("event_types", Json, nullable=True),
        sa.Column("filter", Json, nullable=True),
        sa.Column("selection", Text, nullable=True),
        sa.Column("headers", Json, nullable=True),
        sa.Column("headers_encrypted", Text, nullable=True),
        sa.Column("ordered", sa.Boolean(), nullable=False),
        sa.Column("rate_limit", sa.Integer(), nullable=True),
        sa.Column("held_by", Text, nullable=True),
        sa.Column("held_until", UtcDateTime(), nullable=True),
        sa.Column("status", Text, nullable=False),
        sa.Column("disabled_reason", Text, nullable=True),
        sa.Column("disabled_at", UtcDateTime(), nullable=True),
        sa.Column("first_sequence", sa.BigInteger(), nullable=False),
        sa.Column("secret_encrypted", Text, nullable=False),
        sa.Column("signing_key_encrypted", Text, nullable=False),
        sa.Column("public_key", Text, nullable=False),
        sa.Column("previous_secret_encrypted", Text, nullable=True),
        sa.Column("previous_signing_key_encrypted", Text, nullable=True),
        sa.Column("previous_secret_until", UtcDateTime(), nullable=True),
        sa.Column("paused_until", UtcDateTime(), nullable=True),
        sa.Column("last_success_at", UtcDateTime(), nullable=True),
        sa.Column("failing_since", UtcDateTime(), nullable=True),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("told_failing_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_webhook_endpoints_page", "webhook_endpoints", ["account_id", "id"], unique=False)
    op.create_table(
        "delivery_attempts",
        sa.Column("delivery_id", Text, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("outcome", Text, nullable=False),
        sa.Column("response_status", sa.Integer(), nullable=True),
        sa.Column("response_body", Text, nullable=True),
        sa.Column("error", Text, nullable=True),
        sa.ForeignKeyConstraint(["delivery_id"], ["deliveries.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("delivery_id", "number"),
    )
    op.create_table(
        "hosted_consents",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("customer_id", Text, nullable=False),
        sa.Column("flow_type", Text, nullable=False),
        sa.Column("decision", Text, nullable=False),
        sa.Column("description", Text, nullable=True),
        sa.Column("expiry", sa.Date(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("redirect_url", Text, nullable=False),
        sa.Column("meter_numbers", Json, nullable=False),
        sa.Column("consent_method", Text, nullable=False),
        sa.Column("consentee_full_name", Text, nullable=True),
        sa.Column("consentee_email", Text, nullable=True),
        sa.Column("consentee_email_verified", sa.Boolean(), nullable=False),
        sa.Column("consentee_job_title", Text, nullable=True),
        sa.Column("token_hash", Text, nullable=False),
        sa.Column("token_encrypted", Text, nullable=False),
        sa.Column("code_hash", Text, nullable=True),
        sa.Column("code_email", Text, nullable=True),
        sa.Column("code_until", UtcDateTime(), nullable=True),
        sa.Column("code_sent_at", UtcDateTime(), nullable=True),
        sa.Column("code_tries", sa.Integer(), nullable=False),
        sa.Column("codes_sent", sa.Integer(), nullable=False),
        sa.Column("draft", Json, nullable=True),
        sa.Column("verified_email", Text, nullable=True),
        sa.Column("page_version", Text, nullable=True),
        sa.Column("decided_at", UtcDateTime(), nullable=True),
        sa.Column("decline_reason", Text, nullable=True),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.Column("revocation_reason", Text, nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("token_hash"),
    )
    op.create_index("ix_hosted_consents_customer", "hosted_consents", ["customer_id", "id"], unique=False)
    op.create_index("ix_hosted_consents_page", "hosted_consents", ["account_id", "id"], unique=False)
    op.create_table(
        "meters",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("customer_id", Text, nullable=False),
        sa.Column("number", Text, nullable=False),
        sa.Column("type", Text, nullable=False),
        sa.Column("description", Text, nullable=True),
        sa.Column("address", Text, nullable=True),
        sa.Column("metadata", Json, nullable=False),
        sa.Column("data_source", Text, nullable=False),
        sa.Column("is_disabled", sa.Boolean(), nullable=False),
        sa.Column("has_invalid_number", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("customer_id", "number", name="uq_meters_number"),
    )
    op.create_index("ix_meters_customer", "meters", ["customer_id", "id"], unique=False)
    op.create_index("ix_meters_number", "meters", ["account_id", "number"], unique=False)
    op.create_index("ix_meters_page", "meters", ["account_id", "id"], unique=False)
    op.create_table(
        "replays",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("webhook_endpoint_id", Text, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("through", sa.BigInteger(), nullable=False),
        sa.Column("failed_since", UtcDateTime(), nullable=True),
        sa.Column("is_cancelled", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["webhook_endpoint_id"], ["webhook_endpoints.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_replays_webhook_endpoint_id"), "replays", ["webhook_endpoint_id"], unique=False)
    op.create_table(
        "consent_meters",
        sa.Column("meter_id", Text, nullable=False),
        sa.Column("hosted_consent_id", Text, nullable=False),
        sa.ForeignKeyConstraint(["hosted_consent_id"], ["hosted_consents.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["meter_id"], ["meters.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("meter_id", "hosted_consent_id"),
    )
    op.create_index(
        "ix_consent_meters_consent", "consent_meters", ["hosted_consent_id", "meter_id"], unique=False
    )
    op.create_table(
        "evidence",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("customer_id", Text, nullable=False),
        sa.Column("hosted_consent_id", Text, nullable=False),
        sa.Column("file_name", Text, nullable=False),
        sa.Column("content_type", Text, nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("sha256", Text, nullable=False),
        sa.Column("page_version", Text, nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["hosted_consent_id"], ["hosted_consents.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("hosted_consent_id"),
    )
    op.create_table(
        "readings",
        sa.Column("meter_id", Text, nullable=False),
        sa.Column("start_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("micro_kwh", sa.BigInteger(), nullable=False),
        sa.Column("estimated", sa.SmallInteger(), nullable=False),
        sa.Column("recorded_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["meter_id"], ["meters.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("meter_id", "start_ms"),
    )
    op.create_table(
        "evidence_documents",
        sa.Column("evidence_id", Text, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["evidence_id"], ["evidence.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("evidence_id"),
    )
    op.create_index("uq_customers_email", "customers", ["account_id", sa.text("lower(email)")], unique=True)
    op.create_index("uq_users_email", "users", ["account_id", sa.text("lower(email)")], unique=True)


def downgrade() -> None:
    op.drop_table("evidence_documents")
    op.drop_table("readings")
    op.drop_table("evidence")
    op.drop_table("consent_meters")
    op.drop_table("replays")
    op.drop_table("meters")
    op.drop_table("hosted_consents")
    op.drop_table("delivery_attempts")
    op.drop_table("webhook_endpoints")
    op.drop_table("users")
    op.drop_table("streams")
    op.drop_table("outgoing_mails")
    op.drop_table("idempotent_mutations")
    op.drop_table("events")
    op.drop_table("email_subscriptions")
    op.drop_table("dispatch")
    op.drop_table("deliveries")
    op.drop_table("customers")
    op.drop_table("api_keys")
    op.drop_table("event_meters")
    op.drop_table("accounts")
