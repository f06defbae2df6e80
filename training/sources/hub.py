"""Data sets by their name on the Hugging Face hub: files of one pinned revision, in its cache."""

from __future__ import annotations

from pathlib import Path

from engines.errors import DataError
from training.sources.base import Hub
from training.sources.files import ANSWERS


def download(name: str, hub: Hub) -> tuple[list[Path], list[Path]]:
    """The data set's files for training and of its official test split, from the cache or the hub.

    Raises:
        DataError: the hub cannot be reached or does not have them.
    """
    return [_file(name, hub, f) for f in hub.train], [_file(name, hub, f) for f in hub.test]


def _file(name: str, hub: Hub, file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    for extra in hub.answers:
        if extra.endswith(f"{ANSWERS}/{file}"):
            _file(name, hub, extra)
    try:
        found = hf_hub_download(hub.repository, file, repo_type="dataset", revision=hub.revision)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            got=f"the data set '{name}', and the hub did not give {hub.repository}/{file}: "
            f"{(str(error).splitlines() or ['no reason told'])[0]}",
            expected="a network, or the file in Hugging Face's cache",
            fix=f"check the network, or give a copy of the file: {name}:PATH",
        ) from error
    return Path(found)
