"""What publishers document of their data sets, against what came: reported, never assumed, and no reason to refuse."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LISTS = ("md5.txt", "MD5SUMS", "md5sum.txt")
SUM = re.compile(r"^\s*([0-9a-fA-F]{32})\s+\*?(\S+)\s*$|^\s*(\S+)\s+([0-9a-fA-F]{32})\s*$")


class Report:
    """Lines on what agrees with the publisher's figures, and suspects where something does not.

    Attributes:
        lines: one a figure, "train rows: 199,523 as documented". suspects: the figures that differ.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: list[str] = []
        self.suspects: list[str] = []

    def count(
        self, what: str, found: int, documented: int | None, *, rounded: bool = False, by: str | None = None
    ) -> None:
        """Compare a count; `rounded` when the publisher rounds it, within 2 % then. None: nothing is documented.

        `by` is who documents it, if not the publisher.
        """
        source = by or self.source
        if documented is None:
            self.lines.append(f"{what}: {found:,}, {source} documents no number")
        elif found == documented or (rounded and abs(found - documented) <= 0.02 * documented):
            about = f"about {documented:,} " if rounded else ""
            self.lines.append(f"{what}: {found:,}, {about}as {source} documents")
        else:
            line = f"{what}: {found:,}, {source} documents {documented:,}; a sample or another release?"
            self.lines.append(line)
            self.suspects.append(line)

    def checksums(self, folder: Path, known: Mapping[str, str]) -> None:
        """Compare the MD5 of those published archives, {file: md5}, that lie in a folder."""
        for name, digest in known.items():
            if (file := folder / name).is_file():
                with file.open("rb") as content:
                    found = hashlib.file_digest(content, "md5").hexdigest()
                if found == digest.lower():
                    self.lines.append(f"{name}: MD5 {found} as {self.source} documents")
                else:
                    line = f"{name}: MD5 {found}, {self.source} documents {digest}; load it again"
                    self.lines.append(line)
                    self.suspects.append(line)

    def listed(self, folder: Path) -> None:
        """Compare the files of a folder that a list of checksums in it names, such as the publisher's md5.txt."""
        for listing in (folder / name for name in LISTS):
            if listing.is_file():
                lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
                found = [match.groups() for line in lines if (match := SUM.match(line))]
                self.checksums(
                    folder,
                    {Path(name or other).name: digest or after for digest, name, other, after in found},
                )

    def notes(self) -> dict[str, Any]:
        """Return what the manifest's notes hold: {"published": lines, "suspects": lines}."""
        return {"published": self.lines, "suspects": self.suspects}
