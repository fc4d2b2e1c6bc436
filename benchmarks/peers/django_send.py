"""Django's mail as its documentation says many mails are sent: `send_messages` over one connection that stays open.

Prints one line of JSON; the clock runs from the first connection attempt to the last answer.

    python django_send.py HOST PORT NUMBER
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import django
from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection

WORDS = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
IN_HAND = 1_000
"""Messages given to one `send_messages`: no more memory than a program that looks after itself would use."""


def mail_to(n: int) -> EmailMultiAlternatives:
    leave = f"https://mail.example.jp/u/{n:032x}"
    mail = EmailMultiAlternatives(
        subject=WORDS["subject"],
        body=WORDS["text"].replace("{leave}", leave),
        from_email="品川区 <shina-mail@mail.example.jp>",
        to=[f"reader-{n}@mail-{n % 20}.example"],
        headers={
            "Message-ID": f"<peer.{n}@mail.example.jp>",
            "List-Unsubscribe": f"<{leave}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        },
    )
    mail.attach_alternative(WORDS["html"].replace("{leave}", leave), "text/html")
    return mail


def batches(number: int) -> Iterator[list[EmailMultiAlternatives]]:
    for first in range(0, number, IN_HAND):
        yield [mail_to(n) for n in range(first, min(first + IN_HAND, number))]


def main(host: str, port: int, number: int) -> None:
    settings.configure(EMAIL_HOST=host, EMAIL_PORT=port, DEFAULT_CHARSET="utf-8", USE_TZ=True)
    django.setup()
    connection = get_connection("django.core.mail.backends.smtp.EmailBackend")
    began, spent = time.perf_counter(), time.process_time()
    connection.open()
    sent = sum(connection.send_messages(batch) for batch in batches(number))
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - spent
    connection.close()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "sent": sent, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
