from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from evaluations import evaluation, write
from PIL import Image

from medmoe.report import read_runs, write_review

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
QUIET = (
    "--disable-background-networking --disable-component-update --disable-default-apps --no-first-run --disable-sync"
)

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    paths = [write(folder / name, evaluation(better=better)) for name, better in (("a.json", 0.0), ("b.json", 0.1))]
    return write_review(folder / "page.html", read_runs(paths), resamples=50)


def show(page: Path, folder: Path, width: int = 800, height: int = 600) -> tuple[Path, list[str], list[str]]:
    """Open a page in Chromium, off the network; give its picture, what its console said and what it asked for."""
    picture, log = folder / "page.png", folder / "net.json"
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *QUIET.split()),
        *(f"--user-data-dir={folder / 'profile'}", f"--screenshot={picture}", f"--window-size={width},{height}"),
        *("--enable-logging=stderr", "--v=0", f"--log-net-log={log}", "--host-resolver-rules=MAP * ~NOTFOUND"),
        page.as_uri(),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert picture.is_file(), run.stderr
    said = [line for line in run.stderr.splitlines() if ":CONSOLE" in line]
    # Chromium's own requests have no page to be isolated with.
    own = [line for line in log.read_text(encoding="utf-8").splitlines() if '"network_isolation_key":"file:' in line]
    asked = [found[1] for line in own if (found := re.search(r'"url":"((?:https?|wss?|ftp):[^"]*)"', line))]
    return picture, said, asked


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_opens_without_an_error_or_a_request_on_phone_and_desktop(page: Path, tmp_path: Path, width: int):
    picture, said, asked = show(page, tmp_path, width, 1600)
    assert said == []
    assert asked == []
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape == (1600, width, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50  # something is drawn
    assert (pixels[:, -6:] == pixels[0, 0]).all()  # nothing reaches over the right edge


@pytest.mark.slow
def test_an_error_and_a_request_would_be_seen(tmp_path: Path):
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://127.0.0.1:9/x.png"><script>absent()</script>', encoding="utf-8")
    _, said, asked = show(page, tmp_path)
    assert "absent is not defined" in said[0]
    assert asked == ["http://127.0.0.1:9/x.png"]
