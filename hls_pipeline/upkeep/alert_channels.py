"""How a message reaches a person: a webhook, an e-mail. A new way is a class with a name and `send`.

The addresses come from the operator's settings, so private ones are allowed here. What a message says is decided in
`alerts.py`.
"""

from __future__ import annotations

import json
import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import Any, Protocol

from hls_pipeline import clock
from hls_pipeline.errors import Outage, ServiceRefused, UsageError
from hls_pipeline.gateway import outbound
from hls_pipeline.settings import Settings

_SECONDS = 10


class Channel(Protocol):
    @property
    def name(self) -> str: ...

    def send(self, subject: str, text: str, content: Mapping[str, Any]) -> None:
        """Raises a ServiceError when the message did not get out."""


def of(settings: Settings) -> tuple[Channel, ...]:
    """Those that are configured. Raises UsageError for an e-mail without server or sender."""
    channels: list[Channel] = []
    if settings.alert_webhook_url:
        channels.append(Webhook(settings.alert_webhook_url.get_secret_value()))
    if settings.alert_mail_to:
        if not (settings.smtp_host and settings.alert_mail_from):
            raise UsageError("HLS_ALERT_MAIL_TO needs HLS_SMTP_HOST and HLS_ALERT_MAIL_FROM")
        channels.append(Mail(settings))
    return tuple(channels)


@dataclass(frozen=True)
class Webhook:
    url: str
    name: str = "webhook"

    def send(self, subject: str, text: str, content: Mapping[str, Any]) -> None:
        body = json.dumps(content, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "hls-pipeline-alerts"}
        status = outbound.post(self.url, body, headers, private=True)
        if not 200 <= status < 300:
            raise ServiceRefused(f"the alert webhook answered {status}; check HLS_ALERT_WEBHOOK_URL")


@dataclass(frozen=True)
class Mail:
    settings: Settings
    name: str = "mail"

    def send(self, subject: str, text: str, content: Mapping[str, Any]) -> None:
        settings = self.settings
        message = EmailMessage()
        message["Subject"] = " ".join(subject.split())[:200]
        message["From"], message["To"] = settings.alert_mail_from, ", ".join(settings.alert_mail_to)
        # Not every server adds them, and a mail without them is taken for spam (RFC 5322, 3.6).
        message["Date"] = format_datetime(clock.now())
        message["Message-ID"] = make_msgid(domain=(settings.alert_mail_from or "").rpartition("@")[2].strip(" >"))
        message.set_content(text)
        try:
            with self._connected() as server:
                if settings.smtp_user and settings.smtp_password:
                    server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
                server.send_message(message)
        except (smtplib.SMTPAuthenticationError, smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused) as error:
            raise ServiceRefused(f"the mail server refuses the alert: {error}; check HLS_SMTP_…") from error
        except (OSError, smtplib.SMTPException) as error:
            raise Outage(f"the alert could not be mailed by {settings.smtp_host}: {error}") from error

    def _connected(self) -> smtplib.SMTP:
        host, port = self.settings.smtp_host or "", self.settings.smtp_port
        if self.settings.smtp_tls == "tls":
            return smtplib.SMTP_SSL(host, port, timeout=_SECONDS, context=ssl.create_default_context())
        server = smtplib.SMTP(host, port, timeout=_SECONDS)
        if self.settings.smtp_tls == "starttls":
            server.starttls(context=ssl.create_default_context())
        return server
