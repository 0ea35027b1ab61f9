"""Selections of objects that hang on each other, to the depth that is allowed."""

NESTED = {
    "customers": (
        "id meters(first: 3) { nodes { id customer { id meters(first: 3) { nodes { id } } } "
        "hostedConsent { id customer { id } } } } "
        "hostedConsents(first: 3) { nodes { id customer { id } meters(first: 3) { nodes { id } } } }"
    ),
    "meters": (
        "id customer { id hostedConsents(first: 3) { nodes { id meters(first: 3) { nodes { id } } } } } "
        "intervalData { meter { id } } feed { id } backfills(first: 3) { nodes { id feed { id } } }"
    ),
    "hostedConsents": "id customer { id } meters(first: 3) { nodes { id hostedConsent { id } customer { id } } }",
    "events": (
        "id ... on CustomerCreatedEvent { customer { id meters(first: 3) { nodes { id } } } } "
        "... on MeterCreatedEvent { meter { id customer { id } } customer { id } } "
        "... on MeterDataReceivedEvent { meter { id hostedConsent { id } } customer { id } backfill { id } } "
        "... on MeterDataOverdueEvent { meter { id hostedConsent { id } } customer { id } } "
        "... on HostedConsentApprovedEvent { hostedConsent { id meters(first: 3) { nodes { id } } } customer { id } } "
        "... on HostedConsentDeclinedEvent { hostedConsent { id meters(first: 3) { nodes { id } } } customer { id } } "
        "... on HostedConsentExpiredEvent { hostedConsent { id } customer { id } } "
        "... on WebhookEndpointDisabledEvent { webhookEndpoint { id } } "
        "... on BackfillCompletedEvent { backfill { id feed { id } } meter { id } customer { id } } "
        "... on ImportCompletedEvent { fileImport { id } } ... on UserCreatedEvent { user { id } } "
        "... on ApiKeysRotatedEvent { apiKey { id } } ... on FeedAttentionNeededEvent { feed { id } }"
    ),
    "webhookEndpoints": "id deliveries(first: 3) { nodes { id event { id } endpoint { id } } }",
    "feeds": "id meters(first: 3) { nodes { id backfills(first: 3) { nodes { id meter { id } } } } }",
    "deliveries": "id event { id } endpoint { id deliveries(first: 3) { nodes { id } } } emailSubscription { id }",
}
