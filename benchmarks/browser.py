"""A headless Chromium, driven through its DevTools protocol over two pipes: no library, no port.

https://chromedevtools.github.io/devtools-protocol/; messages are JSON, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
)


class Browser:
    """One page, of which every request is noted in `requests`.

    Args:
        url: to open.
        width, height: of the window, in CSS pixels.
        dark: whether the reader prefers dark pages.
    """

    def __init__(self, url: str, *, width: int = 1300, height: int = 900, dark: bool = False) -> None:
        assert CHROMIUM is not None
        self.requests: list[str] = []
        self.faults: list[str] = []
        """Errors of the page's script."""
        self._sent, self._buffer, self._session = 0, b"", ""
        self._folder = tempfile.mkdtemp(prefix="browser")
        # Above the two descriptors that the browser reads and writes, 3 and 4, so that neither is overwritten.
        theirs_in, self._write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe())
        self._read, theirs_out = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe())
        self._process = os.posix_spawn(
            CHROMIUM,
            [CHROMIUM, *OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={self._folder}", "about:blank"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs_in, 3),
                (os.POSIX_SPAWN_DUP2, theirs_out, 4),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setpgroup=0,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.open(url)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._read)
        os.close(self._write)
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and waits for what it gives."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == self._sent:
                if "error" in heard:
                    raise RuntimeError(f"{method}: {heard['error']['message']}")
                result: dict[str, Any] = heard["result"]
                return result

    def _hear(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not (more := os.read(self._read, 1 << 16)):
                raise ConnectionError("the browser has ended")
            self._buffer += more
        message, self._buffer = self._buffer.split(b"\0", 1)
        heard: dict[str, Any] = json.loads(message)
        if heard.get("method") == "Network.requestWillBeSent":
            self.requests.append(heard["params"]["request"]["url"])
        if heard.get("method") == "Runtime.exceptionThrown":
            self.faults.append(str(heard["params"]["exceptionDetails"]))
        return heard

    def open(self, url: str) -> None:
        """Goes to a page, and waits until it is there."""
        self.evaluate("window.left = true")
        self.call("Page.navigate", url=url)
        self.until("!window.left && document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """What a JavaScript expression gives; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 30.0) -> Any:
        """Waits until an expression is true, and gives it."""
        end = time.monotonic() + seconds
        while not (found := self.evaluate(expression)):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression} is not true after {seconds:g} s")
            time.sleep(0.02)
        return found

    def mouse(self, kind: str, x: float, y: float, *, shift: bool = False) -> None:
        """One event of the left button: ``"Pressed"``, ``"Moved"`` or ``"Released"``, in CSS pixels of the window."""
        held = {"button": "left", "buttons": 0 if kind == "Released" else 1, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, modifiers=8 * shift, **held)

    def click(self, x: float, y: float, *, shift: bool = False) -> None:
        """A click."""
        self.mouse("Pressed", x, y, shift=shift)
        self.mouse("Released", x, y, shift=shift)

    def key(self, name: str) -> None:
        """A key that is pressed and let go, such as ``"Enter"``."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def picture(self, path: str | Path) -> None:
        """The whole page as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        Path(path).write_bytes(base64.b64decode(found["data"]))
