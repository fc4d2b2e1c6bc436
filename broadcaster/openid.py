"""OpenID Connect as a relying party: the authorization code flow with PKCE, and nothing else of it.

The issuer is fixed by the configuration and everything else is read from its own discovery document; no redirect is
followed, answers are bounded in size and time. Signatures and claims are joserfc's work, with the algorithms named here.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, KeySetSerialization

LARGEST = 256 * 1024
TIMEOUT_S = 5.0
LEEWAY_S = 60
ALGORITHMS = ["RS256", "ES256", "PS256"]


class SignOnFailed(Exception):
    """The sign-on did not say who it is; the reason is for the log, and holds no name and no token."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What is kept, sealed in the visitor's browser, between going out and coming back."""

    state: str
    nonce: str
    verifier: str

    @classmethod
    def new(cls) -> Begun:
        return cls(state=secrets.token_urlsafe(24), nonce=secrets.token_urlsafe(24), verifier=secrets.token_urlsafe(48))

    @property
    def challenge(self) -> str:
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@dataclass(frozen=True, kw_only=True)
class SignOn:
    issuer: str
    client_id: str
    secret: str
    name_claim: str
    redirect: str
    trust: ssl.SSLContext | None = None  # the authority of the ward's own sign-on; None: those of the system

    def address(self, begun: Begun) -> str:
        """Where to send the visitor. Raises SignOnFailed."""
        query = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect,
            "scope": "openid profile",
            "state": begun.state,
            "nonce": begun.nonce,
            "code_challenge": begun.challenge,
            "code_challenge_method": "S256",
        }
        return f"{self._discovered()['authorization_endpoint']}?{urlencode(query)}"

    def name_of(self, code: str, begun: Begun, now: datetime) -> str:
        """Who came back with this code. Raises SignOnFailed."""
        found = self._discovered()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect,
            "client_id": self.client_id,
            "client_secret": self.secret,
            "code_verifier": begun.verifier,
        }
        told = self._ask(found["token_endpoint"], body=urlencode(form).encode())
        keys = self._ask(found["jwks_uri"])
        claims = self._claims(told.get("id_token"), keys, begun, now)
        name = claims.get(self.name_claim)
        if not isinstance(name, str) or not name:
            raise SignOnFailed(f"the token holds no {self.name_claim}")
        return name

    def _claims(self, token: object, keys: Mapping[str, Any], begun: Begun, now: datetime) -> Mapping[str, Any]:
        if not isinstance(token, str):
            raise SignOnFailed("there is no id_token")
        try:
            # What came over the network is as the library reads it, or is refused by it.
            key_set = KeySet.import_key_set(cast(KeySetSerialization, dict(keys)))
            read = jwt.decode(token, key_set, algorithms=ALGORITHMS)
            rules = jwt.JWTClaimsRegistry(
                now=lambda: int(now.timestamp()),
                leeway=LEEWAY_S,
                iss={"essential": True, "value": self.issuer},
                aud={"essential": True, "value": self.client_id},
                exp={"essential": True},
                iat={"essential": True},
                nonce={"essential": True, "value": begun.nonce},
            )
            rules.validate(read.claims)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise SignOnFailed(f"the id_token does not hold: {type(error).__name__}") from None
        claims: Mapping[str, Any] = read.claims
        if claims.get("azp", self.client_id) != self.client_id:
            raise SignOnFailed("the id_token is for another client")
        return claims

    def _discovered(self) -> Mapping[str, str]:
        """Its endpoints: all of them at the issuer's own host, or a document that was changed would lead elsewhere."""
        found = self._ask(f"{self.issuer}/.well-known/openid-configuration")
        if found.get("issuer") != self.issuer:
            raise SignOnFailed("the discovery document is another issuer's")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if urlsplit(str(found.get(name, ""))).netloc != urlsplit(self.issuer).netloc:
                raise SignOnFailed(f"{name} lies at another host")
        return found

    def _ask(self, url: str, body: bytes | None = None) -> Mapping[str, Any]:
        """One question, one answer: JSON, bounded, no redirect followed."""
        where = urlsplit(url)
        connection = self._connection(where.scheme, where.hostname or "", where.port)
        path = where.path + (f"?{where.query}" if where.query else "")
        headers = {"accept": "application/json"}
        if body is not None:
            headers["content-type"] = "application/x-www-form-urlencoded"
        try:
            connection.request("GET" if body is None else "POST", path, body=body, headers=headers)
            answer = connection.getresponse()
            told = answer.read(LARGEST + 1)
            if answer.status != 200 or len(told) > LARGEST:
                raise SignOnFailed(f"it answered {answer.status}")
            value = json.loads(told)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SignOnFailed(f"it does not answer: {type(error).__name__}") from None
        finally:
            connection.close()
        if not isinstance(value, dict):
            raise SignOnFailed("its answer is no object")
        return value

    def _connection(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        if scheme == "https":
            trust = self.trust or ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=trust)
        if host in ("127.0.0.1", "localhost"):
            return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        raise SignOnFailed("it must be reached by https")
