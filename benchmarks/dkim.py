"""The ward's signature on each mail: what it costs over the bare RSA signature, and beside dkimpy.

    python -m benchmarks N8

In one process, RSA of 2048 bits, the 3 KB notice: the bare signature (`cryptography`, that is OpenSSL) over a hash of the
right length; the product's splice with and without its signature, whose difference is what DKIM costs a mail; dkimpy over
the same mail. What limits it: RSA itself. How it grows: linearly with the mails; the interpreter is free meanwhile, but the
mail lines of one sender sign one after another.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import dkim
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from benchmarks.rounds import ROUNDS, ROUNDS_QUICK, Figure, Sample, Spread, at_least, at_most, plain, rounds, spread
from benchmarks.ward import a_ward, the_notice
from broadcaster import mime
from broadcaster.dkim import Signer
from broadcaster.message import Mode
from broadcaster.mime import Fields
from channels.email import Email

TITLE = "DKIM in process"
WHY = __doc__

_SELECTOR, _DOMAIN = "s1", "mail.city.shinagawa.example.jp"


def run(quick: bool) -> list[Figure]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    template = _template()
    signature = Signer.from_pem(pem.decode(), domain=_DOMAIN, selector=_SELECTOR).of(template.headers)
    fields = Fields(
        to="reader@mail-1.example", message_id=f"1.a@{_DOMAIN}", leave=f"https://www.example.jp/u/{'a' * 32}"
    )
    unsigned = template.splice(fields)
    contenders = {
        "bare": lambda: _timed(lambda: key.sign(b"m" * 600, padding.PKCS1v15(), hashes.SHA256()), 200),
        "splice": lambda: _timed(lambda: template.splice(fields), 2_000),
        "signed": lambda: _timed(lambda: template.splice(fields, signature=signature), 200),
        "dkimpy": lambda: _timed(lambda: dkim.sign(unsigned, _SELECTOR.encode(), _DOMAIN.encode(), pem), 20),
    }
    results = rounds(contenders, ROUNDS_QUICK if quick else ROUNDS)
    ours = [one["signed"].cpu_us - one["splice"].cpu_us for one in results]
    bare = spread(results, "bare", lambda sample: sample.cpu_us)
    dkimpy = spread(results, "dkimpy", lambda sample: sample.cpu_us)
    return [
        Figure(
            name="N8 CPU of the signature on a mail",
            value=Spread.of(mine / one["bare"].cpu_us for mine, one in zip(ours, results, strict=True)),
            unit="× bare RSA-2048",
            bar=at_most(1.1),
            against=f"bare {plain(bare.median)} µs",
            note=f"ours {plain(Spread.of(ours).median)} µs",
        ),
        Figure(
            name="N8 against dkimpy",
            value=Spread.of(one["dkimpy"].cpu_us / mine for mine, one in zip(ours, results, strict=True)),
            unit="× cheaper",
            bar=at_least(20),
            against=f"dkimpy {plain(dkimpy.median)} µs",
        ),
    ]


def _template() -> mime.Template:
    with a_ward(1) as ward:
        email = ward.app.pipeline.channels[Mode.LIVE]["email"]
        assert isinstance(email, Email)
        payload = next(
            one for one in email.compose(the_notice(ward.app, ward.app.clock.now())) if one.part == "ja.html"
        )
        return email.template_of(payload)


def _timed(work: Callable[[], object], times: int) -> Sample:
    began, spent = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    return Sample(units=times, seconds=time.perf_counter() - began, cpu_s=time.process_time() - spent)


RUNS = {"N8": run}
