"""What the operator is told of the webhook. Loads nothing: most operators keep no certificate."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook whose certificate this operator keeps; all names in its own namespace.

    Attributes:
        secret: with the certificate.
        configuration: MutatingWebhookConfiguration that trusts it.
        service: through which API servers reach the webhook.
        lifetime: of a certificate, in seconds.
    """

    secret: str
    configuration: str
    service: str
    lifetime: float
