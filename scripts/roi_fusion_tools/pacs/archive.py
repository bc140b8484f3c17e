# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""An archive by DICOMweb: what it holds (QIDO-RS), its images (WADO-RS), and results that it stores (STOW-RS)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from roi_fusion.errors import InputError

__all__ = ["Archive", "ArchiveAwayError", "Offer"]

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

#: So many bytes go in one request.
_REQUEST_BYTES = 2**25

#: The longest pause between two tries, in seconds.
_LONGEST_PAUSE_S = 30.0

#: Answers after which another try may help; the rest say that the request itself is no good.
_BUSY = (408, 425, 429, 500, 502, 503, 504)


class ArchiveAwayError(InputError):
    """An archive that gave no answer for as long as was waited; another time it may."""


class _NotThereError(InputError):
    """What was asked for is not there, as the server says."""


@dataclass(frozen=True)
class Offer:
    """A series that an archive holds.

    Attributes:
        uid: SeriesInstanceUID.
        modality: as its headers say.
        images: how many instances it has.
    """

    uid: str
    modality: str
    images: int


class Archive:
    """A DICOMweb server. Whatever it is asked is asked again while it is away or busy.

    A user and password are taken from the file ``.netrc``, as by curl.

    Args:
        url: of its DICOMweb root, such as ``http://127.0.0.1:8042/dicom-web``.
        timeout_s: how long one answer may take, in seconds.
        patience_s: how long a server that is away is asked again, in seconds.

    Raises:
        InputError: when the URL is none.
    """

    def __init__(self, url: str, timeout_s: float = 60.0, patience_s: float = 300.0) -> None:
        from dicomweb_client.api import DICOMwebClient

        self.url, self.timeout_s, self.patience_s = url, timeout_s, patience_s
        logging.getLogger("dicomweb_client").setLevel(logging.ERROR)
        try:
            self._client = DICOMwebClient(url=url, timeout=timeout_s)
        except (ValueError, TypeError):
            raise InputError(f"url: expected an address as http://127.0.0.1:8042/dicom-web, got {url!r}") from None
        self._client.set_http_retry_params(retry=False)  # it gives up after seconds

    def _asked(self, what: str, ask: Callable[[], Answer]) -> Answer:
        """An answer, asked for until it comes or patience ends."""
        import requests

        end, pause = time.monotonic() + self.patience_s, 0.5
        while True:
            try:
                return ask()
            except requests.HTTPError as e:
                answer: Any = e.response  # there is one, as this error is raised for it
                status, reason = answer.status_code, answer.reason
                if status in (401, 403):
                    told = "a user and password are taken from the file .netrc"
                    raise InputError(f"{self.url}: expected the right to {what}, got {status} {reason}; {told}") from None
                if status not in _BUSY:
                    told = "; the address ends as that of its DICOMweb root does, often /dicom-web" if status == 404 else ""
                    kind = _NotThereError if status == 404 else InputError
                    raise kind(f"{self.url}: expected a server to {what}, got {status} {reason}{told}") from None
                why = f"{status} {reason}"
            except requests.JSONDecodeError:
                raise InputError(f"{self.url}: expected a DICOMweb server, got an answer that is no JSON") from None
            except requests.Timeout:
                why = f"no answer within {self.timeout_s:g} s"
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                why = "no connection"
            except requests.RequestException as e:  # the address is none, too many redirections
                raise InputError(f"{self.url}: expected a server to {what}, got: {str(e)[:120]}") from None
            if time.monotonic() + pause > end:
                told = f"{self.url}: expected a server to {what}, got {why} for {self.patience_s:g} s"
                raise ArchiveAwayError(told) from None
            logger.warning("%s: %s; asking again in %.1f s", self.url, why, pause)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _all(self, what: str, tag: str, search: Callable[[dict[str, Any]], list[Any]]) -> dict[str, Any]:
        """What a search finds by UID, page by page: a server may hold back what does not fit one, or know no pages at all."""
        found: dict[str, Any] = {}
        while True:
            page: dict[str, Any] = {"offset": len(found)} if found else {}
            got = self._asked(what, lambda page=page: search(page))  # type: ignore[misc]
            if not isinstance(got, list) or not all(isinstance(item, dict) for item in got):
                raise InputError(f"{self.url}: expected a DICOMweb server, got an answer of another kind")
            new = {_value(item, tag): item for item in got if _value(item, tag) not in found}
            found.update(new)
            if not new:
                return found

    def studies(self) -> list[str]:
        """UIDs of the studies that hold CT and MR."""
        asked: dict[str, Any] = {"search_filters": {"ModalitiesInStudy": "MR"}, "fields": ["ModalitiesInStudy"]}
        found = self._all("list studies", "0020000D", lambda page: self._client.search_for_studies(**asked, **page))
        return sorted(uid for uid, s in found.items() if {"CT", "MR"} <= set(_values(s, "00080061")))

    def series(self, study: str) -> list[Offer]:
        """The series of a study; none where there is no such study."""
        fields = ["NumberOfSeriesRelatedInstances", "Modality"]
        search = self._client.search_for_series
        found = self._all("list series", "0020000E", lambda page: search(study, fields=fields, **page))
        return [Offer(uid, _value(s, "00080060"), int(_value(s, "00201209") or 0)) for uid, s in sorted(found.items())]

    def stored(self, study: str, series: str) -> set[str]:
        """UIDs of the images that a series has there."""
        search = self._client.search_for_instances
        try:
            return set(self._all("list images", "00080018", lambda page: search(study, series, **page)))
        except _NotThereError:  # so some servers answer where there is no such series
            return set()

    def fetch(self, study: str, offer: Offer, folder: Path) -> None:
        """Write the images of a series to a folder.

        Raises:
            InputError: when fewer come than the archive says it has.
        """
        media = (("application/dicom", "*"),)  # as they are stored, compressed or not
        got = self._asked("send images", lambda: self._client.retrieve_series(study, offer.uid, media_types=media))
        if len(got) < offer.images:
            raise InputError(f"{self.url}: expected {offer.images} images of series {offer.uid}, got {len(got)}")
        folder.mkdir(parents=True)
        for number, image in enumerate(got, start=1):
            image.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)

    def store(self, study: str, files: Sequence[Path]) -> None:
        """Store files of a study.

        Raises:
            InputError: when the archive refuses one.
        """
        import pydicom

        for group in _groups(files):
            images = [pydicom.dcmread(path) for path in group]
            answer: Any = self._asked("store results", lambda images=images: self._client.store_instances(images, study))  # type: ignore[misc]
            refused = list(answer.get("FailedSOPSequence") or [])
            if refused:
                reason = refused[0].get("FailureReason", 0)
                came = f"{len(refused)} refused (reason {reason:#06x})"
                raise InputError(f"{self.url}: expected a server to store {len(group)} results, got {came}")


def _groups(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Files in groups that one request takes."""
    group: list[Path] = []
    for path in files:
        if group and sum(p.stat().st_size for p in [*group, path]) > _REQUEST_BYTES:
            yield group
            group = []
        group.append(path)
    if group:
        yield group


def _values(item: Any, tag: str) -> list[Any]:
    return list(item.get(tag, {}).get("Value") or [])


def _value(item: Any, tag: str) -> str:
    return str(next(iter(_values(item, tag)), ""))
