"""Signing in by a touch: WebAuthn by the library of that name. What is asked for and what is checked, and nothing kept.

The key belongs to the desk's own host, so a page of another host of the ward cannot ask for it; a fingerprint, a face or
a PIN is demanded, so it stands for both factors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import webauthn
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)


class NotProven(Exception):
    """What was sent shows nothing; the reason is for the log."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the key belongs: the host, and the origin of its pages."""

    host: str
    origin: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Registered:
    id: str
    public_key: str
    sign_count: int


def ask_new(place: Place, *, person: str, display: str, number: int, known: Iterable[str]) -> tuple[str, bytes]:
    """The browser's options as JSON, and the challenge to be kept. `number` is the person's, and says nothing of them."""
    options = webauthn.generate_registration_options(
        rp_id=place.host,
        rp_name=place.name,
        user_id=number.to_bytes(8, "big"),
        user_name=person,
        user_display_name=display,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
        ),
        exclude_credentials=[PublicKeyCredentialDescriptor(id=base64url_to_bytes(id)) for id in known],
    )
    return webauthn.options_to_json(options), options.challenge


def read_new(place: Place, answer: str, challenge: bytes) -> Registered:
    """Raises NotProven."""
    try:
        found = webauthn.verify_registration_response(
            credential=answer,
            expected_challenge=challenge,
            expected_rp_id=place.host,
            expected_origin=place.origin,
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        raise NotProven(type(error).__name__) from None
    return Registered(
        id=bytes_to_base64url(found.credential_id),
        public_key=bytes_to_base64url(found.credential_public_key),
        sign_count=found.sign_count,
    )


def ask(place: Place) -> tuple[str, bytes]:
    """The same for signing in: the browser offers what it has."""
    options = webauthn.generate_authentication_options(
        rp_id=place.host, user_verification=UserVerificationRequirement.REQUIRED
    )
    return webauthn.options_to_json(options), options.challenge


def id_of(answer: str) -> str:
    """Which key answers. Raises NotProven."""
    try:
        return bytes_to_base64url(webauthn.helpers.parse_authentication_credential_json(answer).raw_id)
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        raise NotProven(type(error).__name__) from None


def read(place: Place, answer: str, challenge: bytes, *, public_key: str, sign_count: int) -> int:
    """The new count of its uses. Raises NotProven, also for one that counts backwards: a copy."""
    try:
        found = webauthn.verify_authentication_response(
            credential=answer,
            expected_challenge=challenge,
            expected_rp_id=place.host,
            expected_origin=place.origin,
            credential_public_key=base64url_to_bytes(public_key),
            credential_current_sign_count=sign_count,
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        raise NotProven(type(error).__name__) from None
    return found.new_sign_count
