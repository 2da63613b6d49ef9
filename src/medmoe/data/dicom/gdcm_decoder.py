"""Lossless JPEG, JPEG-LS and 12-bit JPEG by GDCM, in a process apart: damaged streams make it end the one it is in.

One child serves a process for as long as that lives; starting it takes a few tenths of a second.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_CHILD = Path(__file__).with_name("gdcm_child.py")
_PATIENCE = 30.0  # seconds a frame may take
_children: dict[int, subprocess.Popen[bytes]] = {}  # by the process that started it: a fork must not share one
_lock = threading.Lock()


def decode(code: bytes, *, shape: tuple[int, int, int], allocated: int, bits: int, **more: Any) -> NDArray[Any]:
    """Decode one frame.

    Args:
        code: The frame's codestream.
        shape: Height, width and samples.
        allocated: Bits a number takes in the file's header.
        bits: Bits that carry it.
        **more: `signed`, `photometric` and `syntax`, as the header has them.

    Returns:
        [H, W] or [H, W, 3], unsigned.

    Raises:
        RuntimeError: If GDCM isn't installed.
        ValueError: If it can't decode the frame.
    """
    if importlib.util.find_spec("gdcm") is None:
        raise RuntimeError("GDCM isn't installed")
    height, width, samples = shape
    asked = {"height": height, "width": width, "samples": samples, "allocated": allocated, "bits": bits, **more}
    request = json.dumps({**asked, "bytes": len(code)}).encode()
    with _lock:
        data = _answer(struct.pack("<I", len(request)) + request + code)
    size, rest = divmod(len(data), height * width * samples)
    if rest or size not in (1, 2):
        raise ValueError("GDCM can't decode it")
    values = np.frombuffer(data, f"<u{size}")
    return values.reshape(height, width) if samples == 1 else values.reshape(height, width, samples)


def _answer(request: bytes) -> bytes:
    """Send a request to this process's child, started if need be, and give what comes back; nothing if it ended."""
    child = _children.get(os.getpid())
    if child is None or child.poll() is not None:
        child = subprocess.Popen(
            [sys.executable, str(_CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        _children[os.getpid()] = child
    timer = threading.Timer(_PATIENCE, child.kill)
    timer.start()
    try:
        requests, answers = _pipes(child)
        requests.write(request)
        requests.flush()
        head = answers.read(8)
        data = answers.read(struct.unpack("<Q", head)[0]) if len(head) == 8 else b""
    except (BrokenPipeError, OSError):
        data = b""
    finally:
        timer.cancel()
    if not data:
        _end(child)
    return data


def _pipes(child: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if child.stdin is None or child.stdout is None:
        raise OSError("the process has no pipes")
    return child.stdin, child.stdout


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child that failed, so that the next frame gets a fresh one."""
    _children.pop(os.getpid(), None)
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                continue
    child.wait()


@atexit.register
def _end_own() -> None:
    """End this process's child with it."""
    if child := _children.get(os.getpid()):
        _end(child)
