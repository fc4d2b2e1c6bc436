"""What most Python services do: an `EmailMessage` for each reader, sent by aiosmtplib; here over 20 connections that
stay open, and on uvloop, so that nothing but the way of working is left to differ.

Prints one line of JSON; the clock runs from the first connection attempt to the last answer.

    python aiosmtplib_each.py HOST PORT NUMBER
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Iterator
from email.message import EmailMessage
from email.utils import formataddr
from pathlib import Path

import aiosmtplib
import uvloop

CONNECTIONS = 20
WORDS = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))


def mail_to(n: int) -> EmailMessage:
    leave = f"https://mail.example.jp/u/{n:032x}"
    mail = EmailMessage()
    mail["From"] = formataddr(("品川区", "shina-mail@mail.example.jp"))
    mail["To"] = f"reader-{n}@mail-{n % 20}.example"
    mail["Subject"] = WORDS["subject"]
    mail["Message-ID"] = f"<peer.{n}@mail.example.jp>"
    mail["List-Unsubscribe"] = f"<{leave}>"
    mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    mail.set_content(WORDS["text"].replace("{leave}", leave), cte="base64")
    mail.add_alternative(WORDS["html"].replace("{leave}", leave), subtype="html", cte="base64")
    return mail


async def send(host: str, port: int, numbers: Iterator[int]) -> int:
    """One connection, for as long as there are readers."""
    sent = 0
    async with aiosmtplib.SMTP(hostname=host, port=port, use_tls=False, start_tls=False) as smtp:
        for n in numbers:
            await smtp.send_message(mail_to(n))
            sent += 1
    return sent


async def main(host: str, port: int, number: int) -> None:
    numbers = iter(range(number))
    began, spent = time.perf_counter(), time.process_time()
    sent = sum(await asyncio.gather(*(send(host, port, numbers) for _ in range(CONNECTIONS))))
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - spent
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "sent": sent, "peak_mb": peak_mb}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
