"""The secret that pseudonyms, UIDs and date offsets come from: the same key gives the same ones, in any run."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import stat
import uuid
from datetime import datetime, timedelta
from pathlib import Path

from medmoe.errors import DataError

_STANDARD_ROOT = "1.2.840.10008."
_BYTES = 32
_MOST_DAYS, _DAY = 3650, 86400


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

    def offset(self, patient: str) -> timedelta:
        """Give by how much a patient's dates and times move: up to ten years into the past, all alike."""
        digest = self.digest("days", patient.strip())
        days = 1 + int.from_bytes(digest[:8], "big") % _MOST_DAYS
        return timedelta(days=-days, seconds=int.from_bytes(digest[8:16], "big") % _DAY)

    def days(self, patient: str) -> int:
        """Give the whole days of `offset`, for dates without a time."""
        return self.offset(patient).days

    @property
    def fingerprint(self) -> str:
        """Tell keys apart without giving one away."""
        return self.name("fingerprint", "", length=16)


def is_standard(uid: str) -> bool:
    """Tell whether a UID is one that the standard registers (PS3.6 Annex A).

    It isn't enough that one begins as those do: a file may hold any.
    """
    from pydicom._uid_dict import UID_dictionary

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
        if stat.S_IMODE(path.stat().st_mode) & 0o077:  # made by hand, for others to read
            path.chmod(0o600)
    except (OSError, UnicodeDecodeError) as error:
        what = f"the key can't be read or made ({getattr(error, 'strerror', None) or 'not text'})"
        raise DataError(what, where=str(path), remedy="name a file of hexadecimal digits, or one to make") from None
    if not re.fullmatch(r"[0-9a-fA-F]{32,}", text) or len(text) % 2:
        raise DataError("not a key (32 or more hexadecimal digits)", where=str(path), remedy="name another file")
    return bytes.fromhex(text)


def moved(day: str, time: str, offset: timedelta) -> tuple[str, str] | None:
    """Move a DICOM date and the time that goes with it.

    Args:
        day: `YYYYMMDD` or `YYYY.MM.DD`.
        time: `HH`, `HHMM` or `HHMMSS.FFFFFF`; empty where there is none: the date moves by whole days then.
        offset: By how much; its days are a whole number, its seconds come on top.

    Returns:
        Both moved; None where they aren't a date and a time.
    """
    date = re.fullmatch(r"(\d{4})\.?(\d\d)\.?(\d\d)", day.strip("\0 "))
    clock = _clock(time)
    if date is None or clock is None:
        return None
    try:
        start = datetime(int(date[1]), int(date[2]), int(date[3])) + clock[0]
        fresh = start + (offset if time else timedelta(days=offset.days))
    except (ValueError, OverflowError):
        return None
    if fresh.year < 1000:
        return None
    return f"{fresh:%Y%m%d}", f"{fresh:%H%M%S}{clock[1]}" if time else ""


def moved_time(time: str, offset: timedelta) -> str | None:
    """Move a time of day without a date by the offset's seconds, around the clock; None where it isn't one."""
    fresh = moved("20000101", time, offset)
    return fresh[1] if fresh and time else None


def _clock(time: str) -> tuple[timedelta, str] | None:
    """Read a DICOM time: its whole seconds, and the fraction as it is written."""
    found = re.fullmatch(r"(?:(\d\d)(?::?(\d\d)(?::?(\d\d)(\.\d{1,6})?)?)?)?", time.strip("\0 "))
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups()[:3])
    if hours > 23 or minutes > 59 or seconds > 60:
        return None
    return timedelta(hours=hours, minutes=minutes, seconds=seconds), found[4] or ""
