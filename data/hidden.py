"""What lies beside pictures and is neither a class nor a picture: hidden files, and what systems put there unasked."""

from __future__ import annotations

_SYSTEM = """
@eaDir, @tmp, @Recycle, @Recently-Snapshot, @Transcode, @sharesnap, #recycle, #snapshot, ~snapshot, trashbox,
lost+found, FOUND.000, FOUND.001, aquota.user, aquota.group, __MACOSX, Network Trash Folder, Temporary Items,
TheVolumeSettingsFolder, TheFindByContentFolder, $RECYCLE.BIN, RECYCLE.BIN, RECYCLER, System Volume Information,
Thumbs.db, ehthumbs.db, ehthumbs_vista.db, desktop.ini, Config.Msi, msdownld.tmp, OneDriveTemp, _gsdata_, _vti_cnf,
__pycache__
"""
_SYSTEM_NAMES = {name.strip().casefold() for name in _SYSTEM.split(",")} | {"icon\r"}
_SYSTEM_BEGINNINGS = (".", "~$", "~syncthing~")

_NOTES = (
    *(".txt", ".md", ".rst", ".log", ".pdf", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml"),
    *(".html", ".htm", ".ini", ".db", ".url", ".lnk", ".sha256", ".md5", ".xmp", ".aae"),
)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or one that file managers, network storage, archives and file
    systems put beside what users put there; docs/data.md lists them."""
    return name.startswith(_SYSTEM_BEGINNINGS) or name.casefold() in _SYSTEM_NAMES


def is_note(name: str) -> bool:
    """Whether a file of this name tells something of pictures rather than being one."""
    return name.lower().endswith(_NOTES)
