"""The secret that pseudonyms, UIDs and date offsets come from: the same key gives the same ones, in any run."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import uuid
from datetime import date, timedelta
from pathlib import Path

from medmoe.errors import DataError

_STANDARD_ROOT = "1.2.840.10008."
_BYTES = 32
_MOST_DAYS = 3650


class Key:
    """Keyed, one-way replacements (HMAC-SHA-256).

    Whoever has the key can find out whether a known patient is in the data, so it stays where the data came from.

    Args:
        secret: At least 16 random bytes.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise DataError(f"a key of {len(secret)} bytes; allowed: 16 or more", remedy="let the command make one")
        self._secret = secret

    def digest(self, kind: str, value: str) -> bytes:
        """Hash a value, 32 bytes; those of different kinds never equal."""
        return hmac.new(self._secret, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256).digest()

    def name(self, kind: str, value: str, *, length: int = 12) -> str:
        """Give a pseudonym of letters and digits, at most 52; 12 of them hold 60 bits."""
        return base64.b32encode(self.digest(kind, value)).decode()[:length]

    def patient(self, value: str) -> str:
        """Give a patient's pseudonym; spaces around an id don't count."""
        return f"P{self.name('patient', value.strip())}"

    def uid(self, value: str) -> str:
        """Give the UID that stands for another one: `2.25.` and the integer of a UUID (PS3.5 B.2).

        UIDs that the standard defines (classes, transfer syntaxes) stay as they are.
        """
        value = value.strip("\0 ")
        if is_standard(value) or not value:
            return value
        return f"2.25.{uuid.UUID(bytes=self.digest('uid', value)[:16], version=4).int}"

    def days(self, patient: str) -> int:
        """Give the days that a patient's dates move by: 1 to 3650 into the past, the same for all of the patient's."""
        number = int.from_bytes(self.digest("days", patient.strip())[:8], "big")
        return -(1 + number % _MOST_DAYS)

    @property
    def fingerprint(self) -> str:
        """Tell keys apart without giving one away."""
        return self.name("fingerprint", "", length=16)


def is_standard(uid: str) -> bool:
    """Tell whether a UID is one that the standard registers (PS3.6 Annex A).

    It isn't enough that one begins as those do: a file may hold any.
    """
    from pydicom.uid import UID_dictionary

    return uid.startswith(_STANDARD_ROOT) and uid in UID_dictionary


def new_secret() -> bytes:
    """Make a secret that is kept nowhere: what it replaces can't be told again, nor joined with another run's."""
    return secrets.token_bytes(_BYTES)


def open_secret(path: Path) -> bytes:
    """Read a key's file, or make one that only its owner can read (mode 600).

    Raises:
        DataError: If the file isn't a key, or can't be read or written.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(_BYTES) + "\n")
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        what = f"the key can't be read or made ({getattr(error, 'strerror', None) or 'not text'})"
        raise DataError(what, where=str(path), remedy="name a file of hexadecimal digits, or one to make") from None
    if not re.fullmatch(r"[0-9a-fA-F]{32,}", text) or len(text) % 2:
        raise DataError("not a key (32 or more hexadecimal digits)", where=str(path), remedy="name another file")
    return bytes.fromhex(text)


def moved(value: str, days: int) -> str | None:
    """Move a DICOM date or date and time by whole days; the time of day stays.

    Args:
        value: `YYYYMMDD`, `YYYY.MM.DD` or `YYYYMMDDHHMMSS.FFFFFF&ZZXX`, from the day on.
        days: By how many.

    Returns:
        The value moved; None where it isn't such a value.
    """
    found = re.fullmatch(r"(\d{4})\.?(\d\d)\.?(\d\d)((?:\d{2}){0,3}(?:\.\d{1,6})?(?:[+-]\d{4})?)", value.strip("\0 "))
    if found is None:
        return None
    try:
        day = date(int(found[1]), int(found[2]), int(found[3])) + timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return f"{day:%Y%m%d}{found[4]}" if day.year >= 1000 else None
